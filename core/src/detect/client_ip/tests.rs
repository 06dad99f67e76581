use proptest::prelude::*;

use super::*;

fn client_ip(trusted_hops: u32, trusted_proxies: &[&str]) -> ClientIp {
    let trusted_proxies = trusted_proxies.iter().map(|text| text.parse().unwrap()).collect();
    let header = ClientIpHeader::XForwardedFor;
    ClientIp::compile(&ClientIpDraft { header, trusted_hops, trusted_proxies }).unwrap()
}

const PROXIES: [&str; 2] = ["10.0.0.0/8", "2001:db8:f::/48"];

/// Hops, proxies, the peer, the header, and who the client is.
type Row<'a> = (u32, &'a [&'a str], &'a str, &'a str, Result<&'a str, NoClient>);

#[test]
fn the_client_is_who_the_trusted_proxies_say_or_nobody() {
    use NoClient::{Proxy, TooShort, Unreadable};
    let (inside, outside) = ("10.0.0.1", "192.0.2.1");
    #[rustfmt::skip]
    let table: &[Row<'_>] = &[
        // so many hops, whoever the peer is
        (1, &[],      outside, "203.0.113.7",                              Ok("203.0.113.7")),
        (1, &[],      outside, "198.51.100.9, 203.0.113.7",                Ok("203.0.113.7")), // forged on the left
        (2, &[],      outside, "198.51.100.9, 203.0.113.7, 10.0.0.2",      Ok("203.0.113.7")),
        (2, &[],      outside, "203.0.113.7",                              Err(TooShort)),
        (1, &[],      outside, "",                                         Err(TooShort)),
        (1, &[],      outside, "-",                                        Err(TooShort)),
        (3, &[],      outside, "unknown, 203.0.113.7, 10.0.0.3, 10.0.0.2", Ok("203.0.113.7")),
        (2, &[],      outside, "203.0.113.7, unknown",                     Err(Unreadable)),
        (2, &[],      outside, "203.0.113.7, , 10.0.0.2",                  Err(Unreadable)),
        (1, &[],      outside, "203.0.113.7,",                             Err(Unreadable)),
        (2, &[],      outside, ",10.0.0.2",                                Err(TooShort)),
        (2, &[],      outside, "x,10.0.0.2",                               Err(Unreadable)),
        // known proxies
        (0, &PROXIES, outside, "198.51.100.9",                             Ok(outside)), // the peer is nobody's proxy
        (0, &PROXIES, inside,  "198.51.100.9, 203.0.113.7",                Ok("203.0.113.7")),
        (0, &PROXIES, inside,  "198.51.100.9, 203.0.113.7, 10.0.0.2, 2001:db8:f::1", Ok("203.0.113.7")),
        (0, &PROXIES, inside,  "198.51.100.9, unknown, 10.0.0.2",          Err(Unreadable)),
        (0, &PROXIES, inside,  "198.51.100.9, 10.0.0.3 10.0.0.2",          Err(Unreadable)),
        (0, &PROXIES, inside,  "10.0.0.3, 10.0.0.2",                       Err(TooShort)),
        (0, &PROXIES, inside,  "",                                         Err(TooShort)),
        (0, &PROXIES, inside,  "::ffff:10.0.0.9, ::ffff:203.0.113.7, ::ffff:10.0.0.2", Ok("203.0.113.7")),
        (0, &PROXIES, "::ffff:10.0.0.1", "203.0.113.7",                    Ok("203.0.113.7")),
        (0, &PROXIES, "2001:db8:f::9",   "2001:db8::7",                    Ok("2001:db8::7")),
        // both
        (2, &PROXIES, inside,  "198.51.100.9, 203.0.113.7, 192.0.2.200",   Ok("203.0.113.7")),
        (2, &PROXIES, inside,  "203.0.113.7, 10.0.0.3, 10.0.0.2",          Err(Proxy)),
        (2, &PROXIES, outside, "203.0.113.7, 10.0.0.2",                    Ok(outside)),
        (2, &PROXIES, inside,  "203.0.113.7",                              Err(TooShort)),
    ];
    for &(hops, proxies, peer, header, expect) in table {
        let got = client_ip(hops, proxies).find(peer.parse().unwrap(), header.as_bytes());
        let got = got.map(|client| client.to_string());
        assert_eq!(
            got.as_deref(),
            expect.as_ref().map(|&client| client),
            "{hops} hops, peer {peer}: {header:?}"
        );
    }
}

#[test]
fn an_entry_is_an_address_with_or_without_a_port_and_nothing_else() {
    #[rustfmt::skip]
    let table = [
        ("203.0.113.7",               Some("203.0.113.7")), (" \t203.0.113.7 ",     Some("203.0.113.7")),
        ("203.0.113.7:4711",          Some("203.0.113.7")), ("2001:db8::7",         Some("2001:db8::7")),
        ("[2001:db8::7]",             Some("2001:db8::7")), ("[2001:db8::7]:4711",  Some("2001:db8::7")),
        ("::ffff:203.0.113.7",        Some("203.0.113.7")), ("[::ffff:203.0.113.7]:1", Some("203.0.113.7")),
        ("2001:db8::7:4711",          Some("2001:db8::7:4711")), // all of it is the address
        ("203.0.113.7:",              None),                ("203.0.113.7:471100",  None),
        ("203.0.113.7:http",          None),                ("203.0.113.07",        None),
        ("203.0.113.7 198.51.100.9",  None),                ("2001:db8::7%eth0",    None),
        ("fe80::1%25eth0",            None),                ("[203.0.113.7]",       None),
        ("\"203.0.113.7\"",           None),                ("for=203.0.113.7",     None),
        ("unknown",                   None),                ("_hidden",             None),
        ("_SEVKISEK:1",               None),                ("a.example",           None),
        ("203.0.113.7;198.51.100.9",  None),                ("203.0.113.7\\x00",    None),
        ("3405803783",                None),                ("0xcb.0.113.7",        None),
        ("[[2001:db8::7]]",           None),                ("2001:db8:0:0:0:0:0:7:471", None),
    ];
    for (entry, expect) in table {
        let got = client_ip(1, &[]).find("10.0.0.1".parse().unwrap(), entry.as_bytes());
        assert_eq!(got.ok().map(|client| client.to_string()).as_deref(), expect, "entry {entry:?}");
    }
}

#[test]
fn ten_thousand_entries_are_read_from_the_right() {
    let forged = "198.51.100.9, ".repeat(10_000);
    let header = format!("{forged}203.0.113.7, 10.0.0.2");
    let peer = "10.0.0.1".parse().unwrap();
    for (hops, proxies) in [(2, &[][..]), (0, &PROXIES), (2, &PROXIES)] {
        let client = client_ip(hops, proxies).find(peer, header.as_bytes());
        assert_eq!(client.map(|client| client.to_string()).as_deref(), Ok("203.0.113.7"));
    }
    let only_proxies = "10.0.0.2,".repeat(10_000) + "10.0.0.2";
    assert_eq!(client_ip(0, &PROXIES).find(peer, only_proxies.as_bytes()), Err(NoClient::TooShort));
    assert_eq!(client_ip(32, &[]).find(peer, &b",".repeat(10_000)), Err(NoClient::Unreadable));
}

#[test]
fn what_trusts_nobody_is_refused() {
    let draft = |trusted_hops| ClientIpDraft {
        header: ClientIpHeader::XForwardedFor,
        trusted_hops,
        trusted_proxies: Vec::new(),
    };
    assert_eq!(ClientIp::compile(&draft(0)), Err(ClientIpError::NobodyTrusted));
    assert_eq!(ClientIp::compile(&draft(33)), Err(ClientIpError::TooManyHops(33)));
    assert!(ClientIp::compile(&draft(32)).is_ok());
}

/// What clients may write into the header.
fn forged() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "198.51.100.9",
        "10.0.0.9",
        "2001:db8:f::9",
        "[2001:db8::9]:80",
        "unknown",
        "_x",
        "-",
        "",
        " ",
        ",",
        ", ",
        ";",
        ":",
        "\"",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// The proxies add the client and then each other; what stood there before never matters.
    #[test]
    fn whatever_a_client_writes_the_client_is_who_the_first_proxy_saw(
        forged in forged(), client in any::<[u8; 4]>(), between in 0u8..4, port: bool,
    ) {
        let client = IpAddr::from([203, 0, 113, client[0]]);
        let mut header = if forged.is_empty() { String::new() } else { forged + ", " };
        header += &client.to_string();
        if port {
            header += ":4711";
        }
        header += &", 10.0.0.2".repeat(between.into());
        let peer = "10.1.0.1".parse().unwrap();
        let hops = u32::from(between) + 1;
        for (hops, proxies) in [(hops, &[][..]), (0, &PROXIES), (hops, &PROXIES)] {
            prop_assert_eq!(client_ip(hops, proxies).find(peer, header.as_bytes()), Ok(client), "{}", header);
        }
    }

    #[test]
    fn a_trusted_proxy_is_never_the_client(header in forged(), bytes in prop::collection::vec(any::<u8>(), 0..60), hops in 0u32..4) {
        let client_ip = client_ip(hops, &PROXIES);
        let peer = "10.1.0.1".parse().unwrap();
        for header in [header.as_bytes(), &bytes] {
            if let Ok(client) = client_ip.find(peer, header) {
                prop_assert!(!client_ip.proxies.contains(client));
            }
        }
    }
}
