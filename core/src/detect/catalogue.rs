//! Patterns that come with ip-sentry, under names that policies use.

/// A named list of patterns.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Catalogue {
    /// What nearly every scanner asks for and nearly no site has: admin pages, shells, secrets, router holes.
    Default,
}

impl Catalogue {
    /// The patterns, in the order in which they are reported.
    #[must_use]
    pub const fn patterns(self) -> &'static [&'static str] {
        match self {
            Self::Default => &DEFAULT,
        }
    }
}

const DEFAULT: [&str; 15] = [
    r"^/wp-admin",
    r"^/wp-login\.php",
    r"^/xmlrpc\.php",
    r"^/\.env",
    r"^/\.git/",
    r"^/\.aws/",
    r"^/\.ssh/",
    r"^/phpmyadmin",
    r"^/manager/html",
    r"^/admin\.php",
    r"^/config\.php",
    r"^/setup\.php",
    r"^/shell\.php",
    r"^/eval\.php",
    r"^/boaform/",
];
