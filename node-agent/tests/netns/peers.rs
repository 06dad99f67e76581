//! Programs at both ends of a connection: this test binary again, inside a namespace, told what to do by its
//! environment and its standard input.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

const ROLE: &str = "IP_SENTRY_TEST_PEER";
/// How long an answer may take; without loss it takes microseconds.
const PATIENCE: Duration = Duration::from_millis(300);

/// A program that runs until it is dropped.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it in that namespace, or in the node's own.
    fn start(namespace: Option<&str>, role: &str) -> Self {
        let exe = std::env::current_exe().unwrap();
        let mut command = match namespace {
            None => Command::new(exe),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(exe);
                command
            }
        };
        command.args(["--exact", "peers::peer", "--nocapture", "--quiet"]).env(ROLE, role);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// The next word that it says after `> `; what the test harness prints is passed over.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, word)) = line.trim_end().split_once("> ") {
                return word.to_owned();
            }
            line.clear();
        }
        panic!("the peer ended");
    }

    fn say(&mut self, word: &str) {
        writeln!(self.input, "{word}").unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A server that sends back what it gets, by TCP and UDP.
pub struct Server {
    _program: Program,
}

impl Server {
    pub fn start(namespace: Option<&str>, address: &str) -> Self {
        let mut program = Program::start(namespace, &format!("serve {address}"));
        assert_eq!(program.hear(), "ready");
        Self { _program: program }
    }
}

/// A client with a connection, or what UDP has for one.
pub struct Conversation(Program);

impl Conversation {
    /// Opens it; `None` where the server doesn't answer.
    pub fn open(namespace: Option<&str>, protocol: &str, address: &str) -> Option<Self> {
        let mut program = Program::start(namespace, &format!("{protocol} {address}"));
        (program.hear() == "open").then_some(Self(program))
    }

    /// Asks once and says what came back: `answer`, `refused` or `nothing`.
    pub fn ask(&mut self) -> String {
        self.0.say("ask");
        self.0.hear()
    }

    /// Whether it is answered.
    pub fn goes_on(&mut self) -> bool {
        self.ask() == "answer"
    }
}

/// A client that sends segments past its own kernel.
pub struct Trickster {
    program: Program,
    pub port: u16,
}

impl Trickster {
    /// Opens a connection.
    pub fn open(namespace: &str, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "perl", "-e", include_str!("trickster.pl")]);
        let mut program =
            Program::spawn(command.arg(address.ip().to_string()).arg(address.port().to_string()));
        let port = program.hear().strip_prefix("open ").unwrap().parse().unwrap();
        Self { program, port }
    }

    /// Asks once and says whether this very question is answered.
    pub fn goes_on(&mut self) -> bool {
        self.program.say("ask");
        self.program.hear() == "answer"
    }

    /// Asks and doesn't wait.
    pub fn send(&mut self) {
        self.program.say("send");
        assert_eq!(self.program.hear(), "sent");
    }

    /// Has connection tracking believe that it has closed the connection: an RST that its kernel knows nothing of,
    /// and a SYN, for which tracking gives the closed one up. They live for `hops`.
    pub fn reset(&mut self, hops: u8) {
        self.program.say(&format!("reset {hops}"));
        assert_eq!(self.program.hear(), "sent");
    }
}

/// Not a test of its own: the program of a peer.
#[test]
fn peer() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (what, address) = role.split_once(' ').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    match what {
        "serve" => serve(address),
        "tcp" => match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => converse(&Stream::Tcp(stream)),
            Err(_) => say("closed"),
        },
        "udp" => {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(address).unwrap();
            converse(&Stream::Udp(socket));
        }
        other => panic!("{other}"),
    }
}

fn say(word: &str) {
    println!("\n> {word}");
}

fn serve(address: SocketAddr) {
    let udp = UdpSocket::bind(address).unwrap();
    let tcp = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 16];
        while let Ok((length, from)) = udp.recv_from(&mut bytes) {
            let _lost = udp.send_to(&bytes[..length], from);
        }
    });
    say("ready");
    for mut stream in tcp.incoming().map_while(Result::ok) {
        std::thread::spawn(move || {
            let mut bytes = [0; 16];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                let _lost = stream.write_all(&bytes[..length]);
            }
        });
    }
}

enum Stream {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Stream {
    fn wait(&self, patience: Option<Duration>) {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(patience),
            Self::Udp(socket) => socket.set_read_timeout(patience),
        }
        .unwrap();
    }

    fn receive(&self) -> std::io::Result<usize> {
        let mut bytes = [0; 16];
        match self {
            Self::Tcp(stream) => (&*stream).read(&mut bytes),
            Self::Udp(socket) => socket.recv(&mut bytes),
        }
    }

    fn send(&self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(b"x"),
            Self::Udp(socket) => socket.send(b"x").map(drop),
        }
    }
}

fn converse(stream: &Stream) {
    say("open");
    for _ask in std::io::stdin().lines() {
        // What comes late from before is no answer.
        stream.wait(Some(Duration::from_millis(1)));
        while let Ok(1..) = stream.receive() {}
        stream.wait(Some(PATIENCE));
        let answer = stream.send().and_then(|()| stream.receive());
        say(match answer {
            Ok(1..) => "answer",
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused",
            Ok(_) | Err(_) => "nothing",
        });
    }
}
