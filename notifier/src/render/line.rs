//! Sanitizing of user-supplied text for single lines: no line breaks, no bidirectional controls, no
//! encoded words.

use domain::text::is_invisible_control;

/// Collapses each run of whitespace and control characters into one space, truncates to `limit`
/// characters, isolates right-to-left text, and breaks up encoded words (RFC 2047).
pub(super) fn one_line(text: &str, limit: usize) -> String {
    let text = visible(text);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .replace("=?", "= ?");
    isolated(cut(line, limit))
}

fn cut(line: String, limit: usize) -> String {
    if line.chars().count() <= limit {
        return line;
    }
    let mut cut: String = line.chars().take(limit.saturating_sub(1)).collect();
    cut.truncate(cut.trim_end().len());
    cut.push('…');
    cut
}

fn visible(text: &str) -> String {
    let visible = text.chars().filter(|c| !is_invisible_control(*c));
    visible.collect()
}

/// Wraps right-to-left text in an isolate, so that it does not reorder the text after it.
fn isolated(line: String) -> String {
    const FIRST_STRONG_ISOLATE: char = '\u{2068}';
    const POP_ISOLATE: char = '\u{2069}';
    let is_right_to_left = |c| {
        matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'
            | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
    };
    if line.chars().any(is_right_to_left) {
        format!("{FIRST_STRONG_ISOLATE}{line}{POP_ISOLATE}")
    } else {
        line
    }
}

/// Returns a person's name on one line, or an empty string if it does not look like a name: it is
/// chosen at sign-up by somebody who may not own the address, and must not become spam.
pub(super) fn name(text: &str) -> String {
    const LIMIT: usize = 60;
    let is_part = |c: char| {
        c.is_alphabetic()
            || matches!(
                c,
                ' ' | '\'' | '’' | '-' | '·' | '.' | '\u{300}'..='\u{36f}'
            )
    };
    // Allows "J. R. R." and "St. John", but not "shop.example".
    let is_word = |word: &str| {
        let stem = word.strip_suffix('.').unwrap_or(word);
        !stem.contains('.') || stem.split('.').all(|part| part.chars().count() == 1)
    };
    let plain = visible(text);
    let plain = plain.trim();
    let is_name = plain.chars().count() <= LIMIT
        && plain.chars().all(is_part)
        && plain.split(' ').all(is_word);
    if is_name {
        one_line(plain, LIMIT)
    } else {
        String::new()
    }
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

    #[test]
    fn no_text_turns_what_is_around_it() {
        assert_eq!(one_line("Gala\u{202e}txt\u{2028}x", 80), "Galatxt x");
        assert_eq!(one_line("גאלה", 80), "\u{2068}גאלה\u{2069}");
        assert_eq!(
            one_line("=?utf-8?B?R2FsYQ==?=", 80),
            "= ?utf-8?B?R2FsYQ== ?="
        );
    }

    #[test]
    fn nobody_is_called_an_advertisement() {
        for unchanged in [
            "Ada",
            "Zoë Ångström-李",
            "J.R.R. Tolkien",
            "St. John",
            "O’Neill",
            "Ḥasan",
        ] {
            assert_eq!(name(unchanged), unchanged);
        }
        for dropped in [
            "WIN 500 EUR http://evil.example now",
            "visit evil.example",
            "www.evil",
            "call +49 170 1234567",
            &"a".repeat(61),
        ] {
            assert_eq!(name(dropped), "", "{dropped}");
        }
    }
}
