//! How strings and times from untrusted files are shown: nothing in them reaches a terminal as is.

/// Longest piece of foreign text that is shown, in bytes of its escaped form.
const MAX_SHOWN: usize = 200;

/// Printable ASCII as it is, every other byte and the backslash as `\xNN`, cut after 200 bytes.
///
/// So no control character, bidirectional override or look-alike letter gets to the reader.
pub fn shown(text: impl AsRef<[u8]>) -> String {
    let mut out = String::new();
    for &byte in text.as_ref() {
        if out.len() >= MAX_SHOWN {
            out.push_str("...");
            break;
        }
        match byte {
            b'\\' => out.push_str("\\x5c"),
            b' '..=b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// Foreign text as one word of a line of text: [`shown`], in double quotes where it is empty or holds
/// a space or a quote.
///
/// So nothing that a proxy, a collector or a file wrote can pass for more columns, or for words of
/// ours.
pub fn quoted(text: impl AsRef<[u8]>) -> String {
    word(&shown(text))
}

/// As [`quoted`], for text that has gone through [`shown`].
pub(crate) fn word(shown: &str) -> String {
    let plain = !shown.is_empty() && shown.bytes().all(|b| b != b' ' && b != b'"');
    if plain { shown.to_owned() } else { format!("\"{}\"", shown.replace('"', "\\x22")) }
}

/// [`word`], and `?` for nothing.
pub(crate) fn word_or_unknown(shown: &str) -> String {
    if shown.is_empty() { "?".to_owned() } else { word(shown) }
}

/// Unix nanoseconds as RFC 3339 in UTC, with milliseconds where they are not zero.
pub fn shown_time(unix_ns: u64) -> String {
    let (seconds, millis) = (unix_ns / 1_000_000_000, unix_ns / 1_000_000 % 1000);
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Unix seconds as RFC 3339; the number itself where it is beyond the year 2554.
pub(crate) fn shown_seconds(unix_s: u64) -> String {
    match unix_s.checked_mul(1_000_000_000) {
        Some(ns) => shown_time(ns),
        None => format!("{unix_s} s after 1970"),
    }
}

/// Year, month and day of a day after 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_printable_ascii_is_shown() {
        assert_eq!(shown("GET /a b"), "GET /a b");
        assert_eq!(shown("\x1b[31m\n\u{202e}\\x"), "\\x1b[31m\\x0a\\xe2\\x80\\xae\\x5cx");
        assert!(shown(vec![b'a'; 10_000]).len() < 210);
    }

    #[test]
    fn a_quoted_text_is_one_word() {
        for (text, expected) in [
            ("/pay", "/pay"),
            ("", "\"\""),
            ("/pay -> 200", "\"/pay -> 200\""),
            ("a\" -> \"b", "\"a\\x22 -> \\x22b\""),
            ("a\tb", "a\\x09b"),
            ("a\u{a0}b", "a\\xc2\\xa0b"),
        ] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!((word_or_unknown(""), word_or_unknown("?")), ("?".into(), "?".into()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_leaves_its_quotes(text in "\\PC{0,300}") {
            let quoted = quoted(&text);
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let free = |text: &str| !text.bytes().any(|b| b == b'"' || !(b' '..=b'~').contains(&b));
            match inner {
                Some(inner) => assert!(free(inner), "{quoted}"),
                None => assert!(free(&quoted) && !quoted.contains(' '), "{quoted}"),
            }
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(shown_seconds(seconds), text);
        }
        assert_eq!(shown_time(1_500_000_000), "1970-01-01T00:00:01.500Z");
        assert!(shown_time(u64::MAX).starts_with("2554-"));
        assert_eq!(shown_seconds(u64::MAX), format!("{} s after 1970", u64::MAX));
    }
}
