//! A line of JSON: what it says at the policy's places is what serde_json's own tree says there, and nothing that a
//! client sent leaves its field.
#![no_main]

use std::cell::RefCell;

use ip_sentry_core::detect::{
    format::{Format, FormatDraft, JsonDraft},
    record::{self, Record, RecordError},
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// As Caddy writes: objects in objects, headers as lists, the time as a number.
const IP: &str = "/request/remote_ip";
const PATH: &str = "/request/uri";
const METHOD: &str = "/request/method";
const HOST: &str = "/request/host";
const USER_AGENT: &str = "/request/headers/User-Agent/0";
const FORWARDED_FOR: &str = "/request/headers/X-Forwarded-For/0";
const STATUS: &str = "/status";
const TIME: &str = "/ts";

thread_local! {
    static FORMAT: RefCell<Format> = RefCell::new(format());
}

fn format() -> Format {
    let some = |pointer: &str| Some(pointer.to_owned());
    let draft = JsonDraft {
        ip: IP.to_owned(),
        path: some(PATH),
        status: some(STATUS),
        method: some(METHOD),
        host: some(HOST),
        user_agent: some(USER_AGENT),
        time: some(TIME),
        forwarded_for: some(FORWARDED_FOR),
    };
    Format::compile(&FormatDraft::Json(draft)).expect("the pointers are pointers")
}

/// What stands at a place: text, a number where one may stand, or nothing.
fn text(root: &Value, pointer: &str) -> Result<Vec<u8>, RecordError> {
    let may_be_number = [STATUS, TIME].contains(&pointer);
    let keys: Vec<&str> = pointer.split('/').skip(1).collect();
    // Whatever lies on the way must be something that can have keys.
    for end in 0..keys.len() {
        let way: String = keys[..end].iter().map(|key| format!("/{key}")).collect();
        if root.pointer(&way).is_some_and(|value| !(value.is_object() || value.is_array() || value.is_null()))
        {
            return Err(RecordError::Shape);
        }
    }
    match root.pointer(pointer) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(text.clone().into_bytes()),
        Some(Value::Number(number)) if may_be_number => {
            match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(whole), ..) => Ok(whole.to_string().into_bytes()),
                (None, Some(whole), _) => Ok(whole.to_string().into_bytes()),
                (None, None, Some(number)) => Ok(number.to_string().into_bytes()),
                (None, None, None) => Err(RecordError::Shape),
            }
        }
        Some(_) => Err(RecordError::Shape),
    }
}

/// Compares with the tree of a line, which begins as an object does and has no key twice.
fn compare(format: &mut Format, line: &[u8], root: &Value) {
    let got = format.parse(line);
    let [ip, path, status, method, host, user_agent, time, forwarded_for] =
        [IP, PATH, STATUS, METHOD, HOST, USER_AGENT, TIME, FORWARDED_FOR].map(|pointer| text(root, pointer));
    let expect = (|| {
        let (ip, path, status, method) = (ip.as_ref()?, path.as_ref()?, status.as_ref()?, method.as_ref()?);
        let (host, user_agent, time) = (host.as_ref()?, user_agent.as_ref()?, time.as_ref()?);
        let forwarded_for = forwarded_for.as_ref()?;
        let client = record::client(ip).ok_or(&RecordError::Client)?;
        if path.is_empty() {
            return Err(&RecordError::Request);
        }
        let target = path;
        Ok(Record { target, status, method, host, user_agent, time, forwarded_for, ..Record::of(client) })
    })();
    assert_eq!(got.as_ref(), expect.as_ref().map_err(|error| *error), "{}", line.escape_ascii());
}

/// What nginx's `escape=json` writes: bytes that are no text stay as they are.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        ..0x20 => format!("\\u{byte:04X}").into_bytes(),
        _ => vec![byte],
    };
    bytes.iter().flat_map(escape).collect()
}

fuzz_target!(|data: &[u8]| {
    FORMAT.with_borrow_mut(|format| {
        // As it stands: taken or refused; and without keys that stand twice, as the tree has it.
        let _ = format.parse(data);
        if let Ok(root) = serde_json::from_slice::<Value>(data)
            && root.is_object()
        {
            compare(format, &serde_json::to_vec(&root).unwrap(), &root);
        }

        // As what a client sent: its path, its host, its agent, its header, and one that nobody asks for.
        let fields: Vec<&[u8]> = data.splitn(5, |&byte| byte == b'\n').collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        let path = [b"/", field(0)].concat();
        let mut line = br#"{"status":404,"request":{"uri":""#.to_vec();
        for (bytes, next) in [
            (&path[..], r#"","host":""#),
            (field(1), r#"","headers":{"User-Agent":[""#),
            (field(2), r#""],"X-Forwarded-For":[""#),
            (field(3), r#""],""#),
            (field(4), r#"":[]},"remote_ip":"203.0.113.7"},"ts":1774000800.5}"#),
        ] {
            line.extend_from_slice(&escaped(bytes));
            line.extend_from_slice(next.as_bytes());
        }
        // A client may name its header as one of the fields, which then stands twice: that is no line.
        if matches!(field(4), b"User-Agent" | b"X-Forwarded-For") {
            return assert_eq!(format.parse(&line), Err(RecordError::Shape));
        }
        let expect = Record {
            target: &path,
            status: b"404",
            host: field(1),
            user_agent: field(2),
            forwarded_for: field(3),
            time: b"1774000800.5",
            ..Record::of([203, 0, 113, 7].into())
        };
        assert_eq!(format.parse(&line), Ok(expect), "{}", line.escape_ascii());
    });
});
