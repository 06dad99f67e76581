//! Numbers that are the same everywhere (splitmix64), and what is drawn with them.

use std::fmt::Write as _;

pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to `limit`, without it.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or_default()
    }

    /// The same, for a place in a list.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    /// From 0 up to 1, in steps of 2^-53: exact, whatever the machine.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.share() < share
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.place(from.len())]
    }

    /// So many hexadecimal digits.
    pub(crate) fn hex(&mut self, digits: usize) -> String {
        self.characters(b"0123456789abcdef", digits)
    }

    /// So many characters of a token, as Base64 for URLs writes them.
    pub(crate) fn token(&mut self, length: usize) -> String {
        self.characters(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", length)
    }

    fn characters(&mut self, from: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(from[self.place(from.len())])).collect()
    }
}

/// An address of a public network, a function of its number. IPv6 is spelled in several ways.
pub(crate) fn address(number: u64, is_v6: bool, salt: u64) -> String {
    let mut numbers = Numbers(number.wrapping_mul(0xd134_2543_de82_ef95) ^ salt);
    let a = numbers.next();
    if !is_v6 {
        // Never 10, 127 or 192.168: the first octet is 11 to 126, or 128 to 190.
        let first = match 11 + a % 180 {
            127 => 128,
            other => other,
        };
        return format!("{first}.{}.{}.{}", (a >> 8) & 255, (a >> 16) & 255, 1 + (a >> 24) % 254);
    }
    let b = numbers.next();
    let mut text = format!("2a{:02x}:{:x}:{:x}", a & 0x0f, (a >> 8) & 0xffff, (a >> 24) & 0xffff);
    let rest = if b.trailing_zeros() >= 2 {
        vec![(b >> 8) & 0xffff]
    } else {
        vec![
            (a >> 40) & 0xfff | 1,
            (b >> 8) & 0xfff | 1,
            (b >> 20) & 0xfff | 1,
            (b >> 32) & 0xffff | 1,
            (b >> 48) & 0xffff | 1,
        ]
    };
    for group in &rest {
        let colon = if rest.len() == 1 { "::" } else { ":" };
        // Writing to a string can't fail.
        let _ = write!(text, "{colon}{group:x}");
    }
    text
}

/// Picks the n-th most frequent of many, with a frequency of 1/n.
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    pub(crate) fn new(count: usize) -> Self {
        let mut total = 0.0;
        let mut sums: Vec<f64> = (1..=count)
            .map(|rank| {
                total += 1.0 / rank as f64;
                total
            })
            .collect();
        for sum in &mut sums {
            *sum /= total;
        }
        Self(sums)
    }

    pub(crate) fn draw(&self, numbers: &mut Numbers) -> u64 {
        let share = numbers.share();
        self.0.partition_point(|&sum| sum < share).min(self.0.len() - 1) as u64
    }
}
