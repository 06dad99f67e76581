use proptest::prelude::*;

use super::*;

fn draft() -> JsonDraft {
    let some = |text: &str| Some(text.to_owned());
    JsonDraft {
        ip: "/peer".to_owned(),
        path: some("/request/uri"),
        status: some("/status"),
        method: some("/request/method"),
        host: some("/request/headers/Host/0"),
        user_agent: some("/request/headers/User-Agent/0"),
        time: some("/ts"),
        forwarded_for: some("/request/headers/X~1Y~0Z"),
    }
}

/// What a line says, in words.
fn read(line: impl AsRef<[u8]>) -> Result<String, RecordError> {
    let mut lines = JsonLines::compile(&draft()).unwrap();
    let record = lines.parse(line.as_ref())?;
    let rest = [
        record.method,
        record.target,
        record.status,
        record.host,
        record.user_agent,
        record.time,
        record.forwarded_for,
    ];
    let rest = rest.map(|text| text.escape_ascii().to_string());
    Ok(format!("{} {}", record.client, rest.join("|")))
}

#[test]
fn fields_are_read_wherever_they_are() {
    #[rustfmt::skip]
    let table = [
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a?b","method":"GET"},"status":404}"#,   "203.0.113.7 GET|/a?b|404||||"),
        // in another order, with spaces, other keys, lists and nothing
        (r#" { "status" : "404" , "x" : [1,{"peer":"198.51.100.9"}], "request" : {"method":null, "uri":"/a", "peer":"198.51.100.9"}, "peer" : "203.0.113.7" } "#, "203.0.113.7 |/a|404||||"),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a","headers":{"Host":["h","198.51.100.9"],"User-Agent":["x y"],"X/Y~Z":"198.51.100.1"}}}"#, "203.0.113.7 |/a||h|x y||198.51.100.1"),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a","headers":null}}"#,                   "203.0.113.7 |/a|||||"),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a","headers":{"Host":[]}}}"#,            "203.0.113.7 |/a|||||"),
        // numbers
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a"},"ts":1774000800.123}"#,              "203.0.113.7 |/a||||1774000800.123|"),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a"},"ts":1774000800123}"#,               "203.0.113.7 |/a||||1774000800123|"),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a"},"status":-1,"ts":-0.5}"#,              "203.0.113.7 |/a|-1|||-0.5|"),
        // escapes
        (r#"{"peer":"203.0.113.7","request":{"uri":"\/\u002eenv\"\\\n"}}"#,                   r#"203.0.113.7 |/.env\"\\\n|||||"#),
        (r#"{"peer":"203.0.113\u002e7","request":{"\u0075ri":"/\ud83d\ude00"}}"#,             r"203.0.113.7 |/\xf0\x9f\x98\x80|||||"),
        (r#"{"peer":"[2001:db8::7]","request":{"uri":"/a"}}"#,                                "2001:db8::7 |/a|||||"),
    ];
    for (line, expect) in table {
        assert_eq!(read(line).as_deref(), Ok(expect), "line {line}");
    }
}

#[test]
fn bytes_that_are_no_text_do_not_hide_a_request() {
    let line =
        b"{\"\xff\":\"\xff\",\"peer\":\"203.0.113.7\",\"request\":{\"uri\":\"/.env?\xff\",\"\xfe\":1}}";
    assert_eq!(read(line).as_deref(), Ok(r"203.0.113.7 |/.env?\xff|||||"));
}

#[test]
fn what_could_be_read_in_two_ways_or_in_none_is_not_read() {
    let deep = format!(
        r#"{{"peer":"203.0.113.7","request":{{"uri":"/a"}},"x":{}1{}}}"#,
        "[".repeat(30_000),
        "]".repeat(30_000)
    );
    #[rustfmt::skip]
    let table = [
        (r#"{"peer":"203.0.113.7","peer":"198.51.100.9","request":{"uri":"/a"}}"#,            RecordError::Shape),
        (r#"{"peer":"203.0.113.7","p\u0065er":"198.51.100.9","request":{"uri":"/a"}}"#,       RecordError::Shape),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a"},"request":{"uri":"/b"}}"#,           RecordError::Shape),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a"}} {"peer":"198.51.100.9"}"#,          RecordError::Shape),
        (r#"{"peer":"203.0.113.7","request":{"uri":"/a"}"#,                                   RecordError::Shape),
        (r#"[{"peer":"203.0.113.7","request":{"uri":"/a"}}]"#,                                RecordError::Shape),
        (r#"{"peer":["203.0.113.7"],"request":{"uri":"/a"}}"#,                                RecordError::Shape),
        (r#"{"peer":"203.0.113.7","request":"/a"}"#,                                          RecordError::Shape),
        (r#"{"peer":3405803783,"request":{"uri":"/a"}}"#,                                     RecordError::Shape),
        (r#"{"peer":"203.0.113.7:4711","request":{"uri":"/a"}}"#,                             RecordError::Client),
        (r#"{"peer":"","request":{"uri":"/a"}}"#,                                             RecordError::Client),
        (r#"{"request":{"uri":"/a"}}"#,                                                       RecordError::Client),
        (r#"{"peer":"203.0.113.7"}"#,                                                         RecordError::Request),
        (r#"{"peer":"203.0.113.7","request":{"uri":null}}"#,                                  RecordError::Request),
        (r#""203.0.113.7""#,                                                                  RecordError::Shape),
        ("null",                                                                              RecordError::Shape),
        ("203.0.113.7 - - [x]",                                                               RecordError::Shape),
        (&deep[..60_001],                                                                     RecordError::Shape),
    ];
    for (line, expect) in table {
        assert_eq!(read(line), Err(expect), "line {line:.120}");
    }
    // Deep, but where nobody looks.
    assert!(read(deep).is_ok());
}

#[test]
fn what_can_not_be_a_pointer_is_refused_with_what_to_write() {
    let path =
        |path: &str| JsonDraft { ip: "/ip".to_owned(), path: Some(path.to_owned()), ..JsonDraft::default() };
    #[rustfmt::skip]
    let table = [
        (path("uri"),                       "path is no JSON pointer: write /uri, with ~1 for a slash in a key and ~0 for a tilde"),
        (path("/a~b"),                      "path is no JSON pointer: write /a~b, with ~1 for a slash in a key and ~0 for a tilde"),
        (path("/"),                         "path is no JSON pointer: write /, with ~1 for a slash in a key and ~0 for a tilde"),
        (path("/ip"),                       "path names what another field names already, or something inside it or around it"),
        (path("/ip/x"),                     "path names what another field names already, or something inside it or around it"),
        (path(&"/a".repeat(129)),           "path has 258 bytes; 256 are allowed"),
        (JsonDraft::default(),              "ip is no JSON pointer: write /, with ~1 for a slash in a key and ~0 for a tilde"),
    ];
    for (draft, expect) in table {
        assert_eq!(JsonLines::compile(&draft).map(drop).unwrap_err().to_string(), expect);
    }
    let around = JsonDraft { ip: "/a/b".to_owned(), path: Some("/a".to_owned()), ..JsonDraft::default() };
    assert!(matches!(JsonLines::compile(&around), Err(JsonPointerError::Overlap { field: "path" })));
}

/// A JSON string of any bytes, as a gateway would write it.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        ..0x20 => format!("\\u{byte:04x}").into_bytes(),
        _ => vec![byte],
    };
    bytes.iter().flat_map(escape).collect()
}

proptest! {
    #[test]
    fn whatever_clients_send_the_line_says_who_and_what(
        path in prop::collection::vec(any::<u8>(), 1..60),
        agent in r#"[\\"{}:,a-c]{0,40}|","peer":"198.51.100.9","x":"|\\","peer":"198.51.100.9","x":"\\"#,
    ) {
        let line = [
            br#"{"agent":""#, &*escaped(agent.as_bytes()), br#"","peer":"203.0.113.7","request":{"uri":""#, &*escaped(&path),
            br#"","headers":{"User-Agent":[""#, &*escaped(agent.as_bytes()), br#""]}},"last":""#, &*escaped(agent.as_bytes()), br#""}"#,
        ].concat();
        let mut lines = JsonLines::compile(&draft()).unwrap();
        let record = lines.parse(&line).unwrap();
        prop_assert_eq!(record.client.to_string(), "203.0.113.7");
        prop_assert_eq!(record.target, &path);
        prop_assert_eq!(record.user_agent, agent.as_bytes());
    }

    #[test]
    fn any_bytes_are_taken_or_refused(line in r#"[{}\[\]",:\\/1.u "a-f-]{0,80}"#, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _unused = read(line);
        let _unused = read(bytes);
    }
}
