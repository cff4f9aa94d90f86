//! HTML of the stand-ins' pages: without scripts, and readable on a phone.

use std::borrow::Cow;

/// Escapes text for elements and quoted attributes.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Renders a page. The title is escaped here; the body is markup.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<main>{body}</main>\n</html>\n",
        escape(title)
    )
}

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 1.0625rem/1.5 system-ui, sans-serif; max-width: 48rem; margin: 1.5rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 }
li { margin: .5rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid; padding: .75rem }
dd { margin: 0 0 .5rem; overflow-wrap: anywhere }
iframe { width: 100%; height: 32rem; border: 1px solid; background: #fff }
input, button { font: inherit; padding: .375rem .625rem; max-width: 100% }
";
