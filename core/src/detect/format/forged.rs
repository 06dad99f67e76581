//! No text of a client's is ever read as the address of another: every field that clients write, in every format,
//! behind every prefix.

use proptest::prelude::*;

use super::*;

/// Who sends the requests, and whom all of them would like to be.
const CLIENT: &str = "203.0.113.7";
const VICTIM: &str = "198.51.100.9";

/// What a client writes to be taken for another; `@` stands for the victim.
const FORGERIES: [&str; 22] = [
    "@",
    "@ ",
    ", @",
    "@, @",
    "[@]",
    "\n@ - - [22/Nov/2026:10:00:00 +0000] \"GET /wp-admin HTTP/1.1\" 404 1",
    "\r\n@ - - [22/Nov/2026:10:00:00 +0000] \"GET /wp-admin HTTP/1.1\" 404 1 \"-\" \"-\"\n",
    "\" 200 1 \"-\" \"-\" \"@\"\n",
    "\" 200 1 \"@\" \"@\" \"@\" @",
    "] \"GET /wp-admin HTTP/1.1\" 404 1 \"-\" \"@\" \"@\"",
    "@ - - [22/Nov/2026:10:00:00 +0000] \"GET /wp-admin HTTP/1.1\" 404 1",
    "2026-11-22T10:00:00Z stdout F @ - - [22/Nov/2026:10:00:00 +0000] \"GET /wp-admin HTTP/1.1\" 404 1",
    "x[7]: @ - - [22/Nov/2026:10:00:00 +0000] \"GET /wp-admin HTTP/1.1\" 404 1",
    "\x1b[0m@ /wp-admin",
    "\",\"ip\":\"@\",\"path\":\"/wp-admin\",\"x\":\"",
    "\\\",\"ip\":\"@\",\"x\":\"\\",
    "\"},\"ip\":\"@\",\"x\":{\"y\":\"",
    "\"}\n{\"ip\":\"@\",\"path\":\"/wp-admin\"}",
    "{\"ip\":\"@\",\"path\":\"/wp-admin\"}",
    "\\u0022,\\u0022ip\\u0022:\\u0022@",
    "\x16\x03\x01\x02\x00\x01\x00\u{80}\u{ff} @",
    "\0@\0",
];

/// The fields that a client writes.
const FIELDS: [&str; 8] = ["user", "method", "path", "query", "referer", "agent", "forwarded", "host"];

/// How a gateway writes what clients send.
#[derive(Clone, Copy, Debug)]
enum Escape {
    /// nginx's own way, `\xHH`.
    Hex,
    /// Apache's, `\"`.
    Backslash,
    /// nginx's `escape=json`.
    Json,
    /// Not at all, but for ends of lines.
    None,
}

impl Escape {
    fn write(self, text: &str) -> String {
        let escape = |byte: u8| match (self, byte) {
            (Self::Hex, b'"' | b'\\' | ..0x20 | 0x7f..) => format!("\\x{byte:02X}"),
            (Self::Backslash | Self::Json, b'"' | b'\\') => format!("\\{}", char::from(byte)),
            (Self::Backslash, ..0x20 | 0x7f..) => format!("\\x{byte:02x}"),
            (Self::Json, ..0x20) => format!("\\u{byte:04x}"),
            (Self::None, b'\n') => String::new(),
            _ => char::from(byte).to_string(),
        };
        text.bytes().map(escape).collect()
    }
}

/// One format, and how its gateway writes a request.
struct Gateway {
    name: &'static str,
    format: FormatDraft,
    escape: Escape,
    /// With the fields in `{}`.
    line: &'static str,
}

const COMBINED: &str = r#"{ip} - {user} [22/Nov/2026:10:00:00 +0000] "{method} {path}?{query} HTTP/1.1" 404 153 "{referer}" "{agent}" "{forwarded}" {host}"#;
const PREDECESSOR: &str = r#"^(\S+) \S+ \S+ \[.+?\] "(?:[A-Z]+) (\S+) \S+" \d+"#;
const NAMED: &str = r#"^(?<ip>\S+) - .* \[(?<time>.+?)\] "(?<method>\S+) (?<path>.*?) HTTP/1.1" (?<status>\d+) .*? "(?<userAgent>.*)" "(?<forwardedFor>.*)" (?<host>.*)$"#;
const BEHIND_A_LITERAL: &str = r"^client=(?<ip>[^,]+), (?<path>.*), (?<userAgent>.*)$";
const JSON: &str = r#"{"agent":"{agent}","ip":"{ip}","request":{"path":"{path}?{query}","method":"{method}","host":"{host}","forwarded":"{forwarded}"},"referer":"{referer}","user":"{user}"}"#;

fn gateways() -> Vec<Gateway> {
    let regex = |text: &str| FormatDraft::Regex(text.to_owned());
    let pointer = |field: &str| Some(format!("/request/{field}"));
    let json = FormatDraft::Json(JsonDraft {
        ip: "/ip".to_owned(),
        path: pointer("path"),
        method: pointer("method"),
        host: pointer("host"),
        user_agent: Some("/agent".to_owned()),
        forwarded_for: pointer("forwarded"),
        ..JsonDraft::default()
    });
    let preset = FormatDraft::Preset(Preset::NginxCombined);
    let literal = "client={ip}, {path}, {agent}";
    #[rustfmt::skip]
    let gateways = vec![
        Gateway { name: "preset",               format: preset.clone(),          escape: Escape::Hex,       line: COMBINED },
        Gateway { name: "preset of Apache",     format: preset.clone(),          escape: Escape::Backslash, line: COMBINED },
        Gateway { name: "preset, not escaped",  format: preset,                  escape: Escape::None,      line: COMBINED },
        Gateway { name: "predecessor",          format: regex(PREDECESSOR),      escape: Escape::Hex,       line: COMBINED },
        Gateway { name: "predecessor, not escaped", format: regex(PREDECESSOR),  escape: Escape::None,      line: COMBINED },
        Gateway { name: "named",                format: regex(NAMED),            escape: Escape::Hex,       line: COMBINED },
        Gateway { name: "named, not escaped",   format: regex(NAMED),            escape: Escape::None,      line: COMBINED },
        Gateway { name: "behind a literal",     format: regex(BEHIND_A_LITERAL), escape: Escape::None,      line: literal },
        Gateway { name: "json",                 format: json.clone(),            escape: Escape::Json,      line: JSON },
        Gateway { name: "json, not escaped",    format: json,                    escape: Escape::None,      line: JSON },
    ];
    gateways
}

impl Gateway {
    /// The line of a request with one field forged.
    fn line(&self, forged: &str, forgery: &str) -> String {
        let mut line = self.line.replace("{ip}", CLIENT);
        for field in FIELDS {
            let usual = match field {
                "method" => "GET",
                "path" => "/",
                _ => "-",
            };
            let text = if field == forged { forgery } else { usual };
            line = line.replace(&format!("{{{field}}}"), &self.escape.write(text));
        }
        line
    }
}

/// Nobody, or the client itself.
fn is_true(read: Result<Record<'_>, RecordError>) -> bool {
    !read.is_ok_and(|record| record.client.to_string() != CLIENT)
}

#[test]
fn a_usual_request_is_read_in_every_format_behind_every_prefix() {
    for gateway in gateways() {
        for prefix in prefixes() {
            let line = prefix.to_owned() + &gateway.line("", "");
            let mut format = Format::compile(&gateway.format).unwrap();
            let record = format.parse(line.as_bytes());
            assert!(
                record.is_ok_and(|record| record.client.to_string() == CLIENT),
                "{}: {line}",
                gateway.name
            );
        }
    }
}

#[test]
fn no_field_that_a_client_writes_becomes_an_address() {
    for gateway in gateways() {
        let mut format = Format::compile(&gateway.format).unwrap();
        for prefix in prefixes() {
            for field in FIELDS {
                for forgery in FORGERIES {
                    let line = prefix.to_owned() + &gateway.line(field, &forgery.replace('@', VICTIM));
                    assert!(is_true(format.parse(line.as_bytes())), "{}, {field}: {line}", gateway.name);
                }
            }
        }
    }
}

#[test]
fn junk_is_no_request_in_any_format() {
    let binary: Vec<u8> = (0..=255).collect();
    let junk: [&[u8]; 10] = [
        b"",
        b"\r",
        b" ",
        b"-",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x8f\xe2",
        &binary,
        &b"x".repeat(MAX_LINE_BYTES),
        &b"{\"ip\":".repeat(MAX_LINE_BYTES / 6),
        &b"[".repeat(MAX_LINE_BYTES),
        &b"203.0.113.7 ".repeat(MAX_LINE_BYTES),
    ];
    for gateway in gateways() {
        let mut format = Format::compile(&gateway.format).unwrap();
        for prefix in prefixes() {
            for junk in junk {
                let line = [prefix.as_bytes(), junk].concat();
                assert!(format.parse(&line).is_err(), "{}: {:.80}", gateway.name, line.escape_ascii());
            }
        }
    }
}

/// No prefix, and every one that there is.
fn prefixes() -> impl Iterator<Item = &'static str> {
    std::iter::once("").chain(prefix::tests::TABLE.map(|(prefix, _)| prefix))
}

proptest! {
    #[test]
    fn no_mix_of_forgeries_becomes_an_address(
        field in prop::sample::select(FIELDS.to_vec()),
        pieces in prop::collection::vec(
            prop::sample::select([&FORGERIES[..], &[" ", "\"", "\\", ",", "]", "[", "{", "}", ":", "GET /", " HTTP/1.1\" 404 1"]].concat()),
            1..6,
        ),
        prefix in prop::sample::select(prefixes().collect::<Vec<_>>()),
    ) {
        let forgery = pieces.concat().replace('@', VICTIM);
        for gateway in gateways() {
            let line = prefix.to_owned() + &gateway.line(field, &forgery);
            let mut format = Format::compile(&gateway.format).unwrap();
            prop_assert!(is_true(format.parse(line.as_bytes())), "{}, {}: {}", gateway.name, field, line);
        }
    }

    /// A line cut anywhere names nobody else either.
    #[test]
    fn a_line_cut_short_names_nobody_else(cut in 0usize..400, prefix in prop::sample::select(prefixes().collect::<Vec<_>>())) {
        for gateway in gateways() {
            let line = prefix.to_owned() + &gateway.line("agent", VICTIM);
            let mut format = Format::compile(&gateway.format).unwrap();
            let cut = cut.min(line.len());
            if let Ok(record) = format.parse(&line.as_bytes()[..cut]) {
                prop_assert_eq!(record.client.to_string(), CLIENT, "{}: {}", gateway.name, &line[..cut]);
            }
        }
    }
}
