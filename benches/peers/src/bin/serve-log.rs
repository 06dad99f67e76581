//! Stands in for the API server before one pod's log: `pods/p` tells of a running container, `pods/p/log` sends a log in
//! chunks, so many lines a second, with the time of sending in front of each where that is asked for.
//!
//! ```text
//! serve-log --rate 20000 --chunk 0 small.log    prints its port, and serves until it is ended
//! ```

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;
use jiff::Timestamp;

#[derive(Parser)]
#[command(about, max_term_width = 120)]
struct Args {
    /// Lines a second.
    #[arg(long, default_value_t = 20_000)]
    rate: u32,
    /// Bytes of a chunk; 0: a line each, as a kubelet sends them that has nothing to catch up with.
    #[arg(long, default_value_t = 0)]
    chunk: usize,
    /// The address that two probes come from in the end.
    #[arg(long, default_value = "203.0.113.77")]
    last: String,
    /// The log.
    log: PathBuf,
}

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n","uid":"u1"},"spec":{"containers":[{"name":"nginx"}]},"status":{"containerStatuses":[{"name":"nginx","image":"","imageID":"","ready":true,"restartCount":0,"containerID":"c1","state":{"running":{}},"lastState":{}}]}}"#;

fn main() -> Result<()> {
    let args = Args::parse();
    let log = fs::read(&args.log)?;
    let mut lines: Vec<&[u8]> = log.split_inclusive(|&byte| byte == b'\n').collect();
    let probe = |path| {
        format!("{} - - [20/Mar/2026:12:00:00 +0000] \"GET {path} HTTP/1.1\" 404 1 \"-\" \"-\"\n", args.last)
            .into_bytes()
    };
    let last = ["/.env", "/wp-admin"].map(probe);
    lines.extend(last.iter().map(Vec::as_slice));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let (lines, args) = (&lines, &args);
    thread::scope(|scope| {
        loop {
            let (stream, _) = listener.accept()?;
            scope.spawn(move || answer(stream, lines, args));
        }
    })
}

/// Answers the requests of one connection until it is closed.
fn answer(mut stream: TcpStream, lines: &[&[u8]], args: &Args) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        if request.contains("/log") && !request.contains("limitBytes") {
            send(&mut stream, lines, request.contains("timestamps=true"), args)?;
            continue;
        }
        let body = if request.contains("/log") { format!("{}x\n", stamp()) } else { POD.to_owned() };
        let kind = if request.contains("/log") { "text/plain" } else { "application/json" };
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")?;
    }
}

fn send(stream: &mut TcpStream, lines: &[&[u8]], has_stamps: bool, args: &Args) -> Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let begin = Instant::now();
    let (mut chunk, mut packet) = (Vec::new(), Vec::new());
    for (number, line) in (0_u32..).zip(lines) {
        let due = Duration::from_secs(u64::from(number)) / args.rate;
        if let Some(early) =
            due.checked_sub(begin.elapsed()).filter(|early| *early > Duration::from_millis(1))
        {
            thread::sleep(early);
        }
        if has_stamps {
            chunk.extend_from_slice(stamp().as_bytes());
        }
        chunk.extend_from_slice(line);
        let is_last = number as usize + 1 == lines.len();
        if chunk.len() >= args.chunk || is_last {
            packet.clear();
            write!(packet, "{:x}\r\n", chunk.len())?;
            packet.extend_from_slice(&chunk);
            packet.extend_from_slice(b"\r\n");
            stream.write_all(&packet)?;
            chunk.clear();
        }
    }
    Ok(())
}

/// The time as the kubelet writes it.
fn stamp() -> String {
    format!("{:.9} ", Timestamp::now())
}
