//! What others write in front of a line: it is taken off whatever the line says, and never reaches over an address.
#![no_main]

use std::net::IpAddr;

use ip_sentry_core::detect::{
    format::{Format, FormatDraft, Preset},
    record::{self, RecordError},
};
use libfuzzer_sys::fuzz_target;

const PREFIXES: [&str; 12] = [
    "2026-11-22T10:00:00.123456789Z stdout F ",
    "2026-11-22T10:00:00.123456789+01:00 stderr F ",
    "2026-11-22T10:00:00.123456789Z ",
    "[pod/gateway-5c9f-x/nginx] ",
    "[pod/gateway-5c9f-x/nginx] 2026-11-22T10:00:00Z ",
    "<134>Nov 22 10:00:00 gw-1 nginx[7]: ",
    "Nov 22 10:00:00 nginx: ",
    "2026-11-22T10:00:00.123456+01:00 gw-1 nginx[7]: ",
    "<134>1 2026-11-22T10:00:00.123Z gw-1 nginx 7 - - ",
    "\x1b[1;32m",
    "2026-11-22T10:00:09Z <134>1 2026-11-22T10:00:00Z gw nginx 7 - - ",
    "",
];

/// The predecessor's default: the address in group 1, the path in group 2.
const REGEX: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;

fn formats() -> [Format; 2] {
    [FormatDraft::Preset(Preset::NginxCombined), FormatDraft::Regex(REGEX.to_owned())]
        .map(|draft| Format::compile(&draft).expect("both are formats"))
}

/// The first word that is an address, colours aside.
fn first_address(line: &[u8]) -> Option<IpAddr> {
    line.split(|&byte| byte == b' ').find_map(|word| {
        let mut word = word;
        while let Some(rest) = word.strip_prefix(b"\x1b[") {
            let end = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b';'))?;
            word = rest[end..].strip_prefix(b"m")?;
        }
        record::client(word)
    })
}

/// What nginx writes for bytes that a client sent (`escape=default`).
fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' | ..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    bytes.iter().map(escape).collect()
}

fuzz_target!(|data: &[u8]| {
    // As it stands. Structured data of syslog's may hold anything, an address too.
    for mut format in formats() {
        if let Ok(record) = format.parse(data)
            && !data.contains(&b'<')
        {
            assert_eq!(Some(record.client), first_address(data), "{}", data.escape_ascii());
        }
    }

    // As what a client sent: its path, without spaces, and its agent.
    let Some((&choice, fields)) = data.split_first() else { return };
    let prefix = PREFIXES[usize::from(choice) % PREFIXES.len()];
    let mut fields = fields.splitn(2, |&byte| byte == b'\n').map(escaped);
    let path = fields.next().unwrap_or_default().replace(' ', "%20");
    let agent = fields.next().unwrap_or_default();
    let line = format!(
        r#"{prefix}203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /{path} HTTP/1.1" 404 612 "-" "{agent}""#
    );
    for mut format in formats() {
        let record = format.parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record.client.to_string(), "203.0.113.7", "{line}");
        assert_eq!(record.target, format!("/{path}").as_bytes(), "{line}");

        // The end of what the runtime cut is no line, whatever it says.
        let cut = format!("2026-11-22T10:00:00Z stdout P {line}");
        let end = format!("2026-11-22T10:00:00Z stdout F {line}");
        assert_eq!(format.parse(cut.as_bytes()), Err(RecordError::Piece), "{cut}");
        assert_eq!(format.parse(end.as_bytes()), Err(RecordError::Piece), "{end}");
        assert!(format.parse(end.as_bytes()).is_ok(), "{end}");
    }
});
