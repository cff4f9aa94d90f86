//! Detects bidirectional controls and invisible format characters, with which one user's text could
//! change how the text around it is shown.

/// Returns true for characters that change how the text around them is shown: the controls of the
/// bidirectional algorithm (marks, embeddings, overrides and isolates, UAX #9), and invisible
/// format characters. The zero-width joiner and non-joiner are not among them, since Persian,
/// Indic scripts and emoji need them.
#[must_use]
pub const fn is_invisible_control(c: char) -> bool {
    matches!(
        c,
        '\u{61c}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bidirectional_control_is_among_them_and_joiners_are_not() {
        let bidi = ['\u{61c}', '\u{200e}', '\u{200f}']
            .into_iter()
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}');
        for c in bidi {
            assert!(is_invisible_control(c), "{c:?}");
        }
        for c in ['a', 'ע', '\u{200c}', '\u{200d}', ' ', '\u{301}'] {
            assert!(!is_invisible_control(c), "{c:?}");
        }
    }
}
