//! Text by others that must stay on one line.

/// The text with every run of white space and control characters made one space, cut after
/// `limit` characters.
pub(super) fn one_line(text: &str, limit: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    let mut cut: String = line.chars().take(limit.saturating_sub(1)).collect();
    cut.truncate(cut.trim_end().len());
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_become_spaces() {
        assert_eq!(
            one_line("Gala\r\nBcc: x@y.test\u{0}", 80),
            "Gala Bcc: x@y.test"
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(one_line("äöü äöü", 5), "äöü…");
    }
}
