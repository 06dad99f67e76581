//! The rest of a line that was cut at byte 16,384 or later, as the kubelet sends it after a line of standard error: by
//! the formats that are said to be safe from that it is never read, wherever the cut falls and whatever clients sent.
//! Where nginx's user name reaches the cut the rest may read, and the jail doubts it.
#![no_main]

use ip_sentry_core::{
    detect::{
        decision::Verdict,
        format::{FormatDraft, JsonDraft, Preset},
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
        trail::{PIECE_BYTES, Trail},
    },
    networks::Networks,
};
use libfuzzer_sys::fuzz_target;

const CLIENT: &str = "203.0.113.7";
const STDERR: &str = "2026/11/22 10:00:00 [error] 7#7: *1 open() failed";

/// What nginx writes for bytes that a client sent (`escape=default`).
fn escaped(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' | ..0x20 | 0x7f.. => format!("\\x{byte:02X}"),
        _ => char::from(byte).to_string(),
    };
    bytes.iter().map(escape).collect()
}

/// What `escape=json` writes, of text.
fn escaped_json(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let quoted = serde_json::Value::String(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// nginx takes the spaces around a header's value away.
fn header(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

/// Nothing earns a ban but every request: the loosest policy that there is.
fn jail(format: FormatDraft) -> Jail {
    let any = PolicyDraft {
        format,
        any_path: true,
        catalogues: Vec::new(),
        threshold: 1,
        unique_pattern_threshold: 0,
        ..PolicyDraft::default()
    };
    Jail::new(Policy::compile(&any).expect("the policy compiles"), Limits::default())
}

/// Whom a line that is cut at that byte has banned, but for the client.
fn check(format: FormatDraft, line: &[u8], cut: usize) {
    let mut jail = jail(format);
    let mut trail = Trail::stamped();
    let (first, rest) = line.split_at(cut);
    for piece in [&[first, STDERR.as_bytes()].concat(), rest] {
        let verdict = jail.observe_in(
            &mut trail,
            Some(jiff::Timestamp::UNIX_EPOCH),
            piece,
            &Networks::default(),
            &|_, _| false,
        );
        if let Verdict::Earned(decision) = verdict {
            let source = decision.source.to_string();
            assert_eq!(source, format!("{CLIENT}/32"), "{}", piece.escape_ascii());
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [field, cut_low, cut_high, data @ ..] = data else { return };
    let fields: Vec<&[u8]> = data.splitn(4, |&byte| byte == b'\n').collect();
    let part = |index: usize| fields.get(index).copied().unwrap_or_default();
    let pad =
        |place: u8, text: String| if *field % 4 == place { "x".repeat(PIECE_BYTES) + &text } else { text };

    let (user, path) = (pad(0, escaped(part(0))), pad(1, escaped(part(1))));
    let (referer, agent) = (pad(2, escaped(header(part(2)))), pad(3, escaped(header(part(3)))));
    let user = if user.is_empty() { "-".to_owned() } else { user };
    // nginx logs a request that it could not parse without ` HTTP/1.1`.
    let request = if field & 4 == 0 { format!("GET /{path} HTTP/1.1") } else { path };
    let nginx = format!(
        r#"{CLIENT} - {user} [20/Mar/2026:10:00:00 +0000] "{request}" 404 612 "{referer}" "{agent}""#
    );
    let json = format!(
        r#"{{"agent":"{}","list":["{}","{}"],"nested":{{"{}":"a"}},"ip":"{CLIENT}","uri":"/"}}"#,
        pad(0, escaped_json(part(0))),
        pad(1, escaped_json(part(1))),
        pad(2, escaped_json(part(2))),
        pad(3, escaped_json(part(3))),
    );
    let (ip, path) = ("/ip".to_owned(), Some("/uri".to_owned()));
    let formats = [
        (FormatDraft::Preset(Preset::NginxCombined), nginx),
        (FormatDraft::Json(JsonDraft { ip, path, ..JsonDraft::default() }), json),
    ];
    for (format, line) in formats {
        let behind = line.len() - PIECE_BYTES;
        let cut = PIECE_BYTES + usize::from(u16::from_le_bytes([*cut_low, *cut_high])) % behind;
        check(format, line.as_bytes(), cut);
    }
});
