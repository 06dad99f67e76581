//! The X-Forwarded-For header of a policy's: the first byte says which proxies are trusted, the rest is the header. Who is
//! banned, or that it is nobody, is what a plain reading of the list from the right says.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use ip_sentry_core::{
    detect::{
        client_ip::{ClientIpDraft, ClientIpHeader},
        decision::Verdict,
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
    },
    net::{Network, Source},
    networks::Networks,
};
use libfuzzer_sys::fuzz_target;

/// Another peer than the proxy, which is in the trusted networks.
const PEERS: [&str; 2] = ["203.0.113.7", "100.64.0.1"];
const PROXIES: [&str; 3] = ["100.64.0.0/10", "192.0.2.0/24", "2001:db8:1::/48"];

fn address(entry: &str) -> Option<IpAddr> {
    let bare = match entry.rsplit_once(':') {
        Some((address, port))
            if (1..=5).contains(&port.len())
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (address.ends_with(']') || !address.contains(':')) =>
        {
            address
        }
        _ => entry,
    };
    match bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(|v6| IpAddr::V6(v6).to_canonical()),
        None => bare.parse::<IpAddr>().ok().map(|address| address.to_canonical()),
    }
}

fn client(peer: IpAddr, header: &str, hops: usize, proxies: &[Network]) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| proxies.iter().any(|proxy| proxy.contains(address));
    if !proxies.is_empty() && !is_proxy(peer) {
        return Some(peer);
    }
    let mut entries: Vec<&str> =
        header.rsplit(',').map(|entry| entry.trim_matches(|byte: char| byte.is_ascii_whitespace())).collect();
    // Nothing left of the first comma is nothing.
    if matches!(entries.last(), Some(&"" | &"-")) {
        entries.pop();
    }
    let entries: Vec<Option<IpAddr>> = entries.into_iter().map(address).collect();
    let place = match hops {
        0 => entries.iter().position(|entry| entry.is_none_or(|address| !is_proxy(address)))?,
        hops => hops - 1,
    };
    let all: Vec<IpAddr> = entries.get(..=place)?.iter().copied().collect::<Option<_>>()?;
    all.last().copied().filter(|&address| !is_proxy(address))
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
    let Some((&choice, header)) = data.split_first() else { return };
    let choice = usize::from(choice);
    let (peer, hops) = (PEERS[choice & 1], (choice >> 1) & 3);
    let proxies: Vec<Network> =
        PROXIES.iter().skip((choice >> 3) & 3).map(|proxy| proxy.parse().unwrap()).collect();
    if hops == 0 && proxies.is_empty() {
        return;
    }
    let header = escaped(header);
    let line = format!(
        r#"{peer} - - [20/Mar/2026:10:00:00 +0000] "GET /wp-admin HTTP/1.1" 404 612 "-" "agent" "{header}""#
    );
    let draft = ClientIpDraft {
        header: ClientIpHeader::XForwardedFor,
        trusted_hops: u32::try_from(hops).unwrap(),
        trusted_proxies: proxies.clone(),
    };
    let draft = PolicyDraft { client_ip: Some(draft), threshold: 1, ..PolicyDraft::default() };
    let mut jail = Jail::new(Policy::compile(&draft).unwrap(), Limits::default());
    let client = client(peer.parse().unwrap(), &header, hops, &proxies);
    match (jail.observe(None, line.as_bytes(), &Networks::default()), client) {
        (Verdict::NoClient(_), None) => {}
        (Verdict::Infrastructure(found), Some(client)) => assert_eq!(found, client, "{line}"),
        (Verdict::Earned(decision), Some(client)) => {
            assert_eq!(Ok(decision.source), Source::of(client, 64), "{line}");
        }
        (verdict, client) => panic!("{verdict:?} for {client:?}: {line}"),
    }
});
