//! Clients of the gateways: network namespaces with addresses of the documentation ranges.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use ip_sentry_core::net::Source;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    time::timeout,
};

use crate::lab;

/// How long an attempt to connect stays unanswered until it counts as dropped. Less than the second after which a
/// SYN is sent again, so that one attempt is one packet.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long a try that is repeated anyway waits.
const GLANCE: Duration = Duration::from_millis(100);
/// How long an answer may take once connected.
const ANSWER: Duration = Duration::from_secs(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A client; it goes with this value.
#[derive(Debug)]
pub struct Client {
    name: String,
    addresses: Vec<IpAddr>,
}

/// What became of an attempt to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reach {
    /// The connection was made.
    Connected,
    /// The other side refused it: the packet arrived, at a port where nobody listens.
    Refused,
    /// Nothing came back.
    Silence,
}

impl Client {
    /// Makes a client with these addresses.
    pub async fn new(addresses: &[IpAddr]) -> Result<Self> {
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut arguments = vec!["add", &name];
        arguments.extend(texts.iter().map(String::as_str));
        lab::cluster("client.sh", &arguments).await?;
        Ok(Self { name, addresses: addresses.to_vec() })
    }

    /// Its first address of the same family.
    pub fn address_towards(&self, to: SocketAddr) -> Result<IpAddr> {
        let same = |address: &&IpAddr| address.is_ipv4() == to.is_ipv4();
        self.addresses
            .iter()
            .find(same)
            .copied()
            .with_context(|| format!("the client has no address towards {to}"))
    }

    /// Its first IPv4 address, as a ban names it.
    #[must_use]
    pub fn ipv4(&self) -> Source {
        self.source(true)
    }

    /// The /64 of its first IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Source {
        self.source(false)
    }

    #[expect(
        clippy::expect_used,
        reason = "the addresses are of the documentation ranges, which may be banned"
    )]
    fn source(&self, is_ipv4: bool) -> Source {
        let address = self.addresses.iter().find(|address| address.is_ipv4() == is_ipv4);
        Source::of(*address.expect("the client has such an address"), 64)
            .expect("a client's address can be banned")
    }

    /// Tries to connect, from one of its addresses.
    pub async fn reach_from(&self, from: IpAddr, to: SocketAddr) -> Result<Reach> {
        self.reach_within(PATIENCE, from, to).await
    }

    /// Tries to connect and gives up soon, for those who want to know when a door opens: how long one try waits in
    /// vain is the error of what they measure.
    pub async fn glance(&self, to: SocketAddr) -> Result<Reach> {
        self.reach_within(GLANCE, self.address_towards(to)?, to).await
    }

    async fn reach_within(&self, patience: Duration, from: IpAddr, to: SocketAddr) -> Result<Reach> {
        Ok(match self.connect(from, to, patience).await? {
            Ok(_) => Reach::Connected,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Reach::Refused,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Reach::Silence,
            Err(error) => bail!("from {from} to {to}: {error}"),
        })
    }

    /// Tries to connect, from its own address of that family.
    pub async fn reach(&self, to: SocketAddr) -> Result<Reach> {
        self.reach_from(self.address_towards(to)?, to).await
    }

    /// Asks for a path and returns the status; fails when nothing answers.
    pub async fn get(&self, to: SocketAddr, path: &str) -> Result<u16> {
        self.get_from(self.address_towards(to)?, to, path).await
    }

    /// The same, from one of its addresses.
    pub async fn get_from(&self, from: IpAddr, to: SocketAddr, path: &str) -> Result<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n");
        let answer = self.send(from, to, request.as_bytes()).await?;
        let status = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        status.with_context(|| format!("{to} answered {:?}", String::from_utf8_lossy(&answer)))
    }

    /// Sends these bytes and returns everything that comes back.
    pub async fn send(&self, from: IpAddr, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
        let connected = self.connect(from, to, PATIENCE).await?;
        let mut stream = connected.with_context(|| format!("from {from} to {to}"))?;
        let mut answer = Vec::new();
        let exchange = async {
            stream.write_all(bytes).await?;
            stream.read_to_end(&mut answer).await
        };
        timeout(ANSWER, exchange).await.with_context(|| format!("{to} did not answer {from}"))??;
        Ok(answer)
    }

    /// Asks for these paths one after the other. An answer that a ban cuts off is no error.
    pub async fn probe(&self, to: SocketAddr, paths: &[&str]) -> Result<()> {
        self.probe_from(self.address_towards(to)?, to, paths).await
    }

    /// The same, from one of its addresses.
    pub async fn probe_from(&self, from: IpAddr, to: SocketAddr, paths: &[&str]) -> Result<()> {
        self.probe_with(from, to, "", paths).await
    }

    /// The same, with that `X-Forwarded-For`: what a proxy does for its clients, and a liar for itself.
    pub async fn probe_for(&self, forwarded_for: &str, to: SocketAddr, paths: &[&str]) -> Result<()> {
        let header = format!("X-Forwarded-For: {forwarded_for}\r\n");
        self.probe_with(self.address_towards(to)?, to, &header, paths).await
    }

    async fn probe_with(&self, from: IpAddr, to: SocketAddr, header: &str, paths: &[&str]) -> Result<()> {
        for path in paths {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: shop.example.com\r\n{header}Connection: close\r\n\r\n");
            let connected = self.connect(from, to, PATIENCE).await?;
            let mut stream = connected.with_context(|| format!("{path} from {from} to {to}"))?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        }
        Ok(())
    }

    async fn connect(
        &self,
        from: IpAddr,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<io::Result<TcpStream>> {
        ensure!(from.is_ipv4() == to.is_ipv4(), "{from} can't reach {to}");
        let socket = self.socket(from).await.with_context(|| format!("no socket for {from}"))?;
        Ok(match timeout(patience, socket.connect(to)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        })
    }

    /// A socket of the client's network namespace: it stays in the one that it was made in.
    async fn socket(&self, from: IpAddr) -> Result<TcpSocket> {
        let socket = self.inside(move || open_socket(from)).await??;
        socket.set_nonblocking(true)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// Runs something in the client's network namespace, in a thread of its own: a thread that has been there is
    /// of no use for anything else.
    pub async fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let space = format!("/run/netns/ipsentry-client-{}", self.name);
        let (done, result) = oneshot::channel();
        std::thread::spawn(move || {
            let entered = File::open(space).and_then(|space| {
                Ok(move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?)
            });
            let _ = done.send(entered.map(|()| work()));
        });
        Ok(result.await??)
    }
}

/// A socket for one connection from that address.
pub fn open_socket(from: IpAddr) -> io::Result<Socket> {
    let domain = if from.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

impl Drop for Client {
    fn drop(&mut self) {
        let script = lab::root().join("tests/e2e/cluster/client.sh");
        let _ = std::process::Command::new(script).args(["delete", &self.name]).status();
    }
}
