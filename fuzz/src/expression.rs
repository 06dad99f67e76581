//! Regular expressions from a fuzzer's bytes.

/// What an expression may be made of. Brackets are balanced by [`expression`].
const TOKENS: [&str; 44] = [
    "(", "(", "(?:", ")", ")", "|", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "a", "b",
    "ab", "/", " ", "\\.", "\"", "\\[", "\\]", "-", "1", "\\S", "\\s", "\\d", "\\w", ".", "[^ ]", "[^]]",
    "[a-c]", "[A-Z]", "(?i:a)", "(?s:.)", "\\xff", "\\x00", "\\b", "^", "$", "\\S+", " \"",
];

/// More tokens than this only make the fuzzer slow.
const MAX_TOKENS: usize = 24;

/// Reads bytes as an expression: those that begin with `^` as it stands there, others as a token each.
///
/// Not every outcome compiles, but most do.
#[must_use]
pub fn expression(bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(b"^") {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    let mut text = String::new();
    let (mut depth, mut may_repeat) = (0, false);
    for &byte in &bytes[..bytes.len().min(MAX_TOKENS)] {
        let token = TOKENS[usize::from(byte) % TOKENS.len()];
        match token {
            ")" if depth == 0 => continue,
            "*" | "+" | "?" | "*?" | "+?" | "??" | "{2}" | "{1,3}" | "{0,2}?" if !may_repeat => continue,
            ")" => depth -= 1,
            "(" | "(?:" => depth += 1,
            _ => {}
        }
        may_repeat = !matches!(token, "(" | "(?:" | "|" | "^" | "$" | "\\b" | "*" | "+" | "?")
            && !token.ends_with(['?', '}']);
        text.push_str(token);
    }
    text.push_str(&")".repeat(depth));
    Some(text)
}

/// The first line, and what follows it.
#[must_use]
pub fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, b""),
    }
}
