//! Texts that name networks: each is refused or is the one text of that network, and what may be banned is narrow.
#![no_main]

use ip_sentry_core::{
    detect::record,
    net::{Network, Scope, Source, scope},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(client) = record::client(data) {
        let text = String::from_utf8_lossy(data);
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text);
        let known: std::net::IpAddr = bare.parse().expect("the standard library reads it too");
        assert_eq!(client, known.to_canonical());
        if let Ok(source) = Source::of(client, 64) {
            assert!(source.network().contains(client));
            assert_ne!(scope(client), Scope::Special, "{client}");
        }
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.to_string(), text);
        for address in [network.address(), network.last_address()] {
            // An IPv6 network that spans the mapped addresses holds none of them: those are IPv4.
            assert!(network.contains(address) || address != address.to_canonical(), "{text}, {address}");
        }
    }
    if let Ok(source) = text.parse::<Source>() {
        let widest = if source.network().is_ipv4() { 16 } else { 32 };
        assert!(source.network().prefix() >= widest, "{source}");
        assert_eq!(source.to_string(), text);
        assert!(source.ban_name().len() <= 43, "{}", source.ban_name());
    }
});
