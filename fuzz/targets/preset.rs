//! A line of nginx's: whatever clients sent, it says who and what. Nothing that they sent becomes an address.
#![no_main]

use ip_sentry_core::detect::format::{Format, FormatDraft, Preset};
use libfuzzer_sys::fuzz_target;

/// What nginx writes for bytes that a client sent (`escape=default`).
fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' | ..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    bytes.iter().map(escape).collect()
}

fuzz_target!(|data: &[u8]| {
    let mut format = Format::compile(&FormatDraft::Preset(Preset::NginxCombined)).unwrap();
    // As it stands: taken or refused.
    let _ = format.parse(data);

    // As what a client sent: its name, its path, its referer and its agent.
    let mut fields = data.split(|&byte| byte == b'\n').map(escaped);
    let mut field = || fields.next().unwrap_or_default();
    let (user, path, referer, agent) = (field(), field(), field(), field());
    let user = if user.is_empty() { "-".to_owned() } else { user };
    let line = format!(
        r#"203.0.113.7 - {user} [20/Mar/2026:10:00:00 +0000] "GET /{path} HTTP/1.1" 404 612 "{referer}" "{agent}""#
    );
    let record = format.parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(record.client.to_string(), "203.0.113.7", "{line}");
    assert_eq!(record.target, format!("/{path}").as_bytes(), "{line}");
    assert_eq!((record.method, record.status), (&b"GET"[..], &b"404"[..]), "{line}");
    assert_eq!(record.time, b"20/Mar/2026:10:00:00 +0000", "{line}");
});
