//! The last gate: a connection on which nothing is sent unless this replica leads.
//!
//! [`Leadership::write`] looks at the clocks whenever a request goes on, but between that and the network lie the
//! HTTP client's own tasks and queues: a process that is suspended with several requests in them would send them all
//! when it wakes. Here the clocks are read in the same breath as the system call that sends the bytes, by one
//! connection at a time, so at most one such call was past the gate.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Leadership;

/// A connection that sends only while this replica leads, if it is told so; it receives at any time.
pub struct GatedStream<S> {
    stream: S,
    gate: Option<Leadership>,
}

impl<S> GatedStream<S> {
    /// Puts the gate in front of a connection; with `None` it stands open.
    pub fn new(stream: S, gate: Option<Leadership>) -> Self {
        Self { stream, gate }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GatedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GatedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, gate } = self.get_mut();
        let send = || Pin::new(stream).poll_write(context, bytes);
        match gate {
            None => send(),
            Some(leadership) => leadership
                .while_in_term(send)
                .unwrap_or_else(|deposed| Poll::Ready(Err(io::Error::other(deposed)))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S: Connection> Connection for GatedStream<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::Moment;
    use super::*;

    #[tokio::test]
    async fn nothing_is_sent_without_the_lease_not_even_on_a_connection_that_is_open() {
        let leadership = Leadership::new(Duration::from_mins(1));
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut connection = GatedStream::new(ours, Some(leadership.clone()));
        assert!(connection.write_all(b"too early").await.is_err());
        leadership.lead(Moment::now());
        connection.write_all(b"in time").await.unwrap();
        leadership.lose();
        assert!(connection.write_all(b"too late").await.is_err());
        drop(connection);
        let mut received = String::new();
        theirs.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "in time");
    }

    #[tokio::test]
    async fn a_write_under_way_may_be_finished_when_the_shutdown_has_begun() {
        let leadership = Leadership::new(Duration::from_mins(1));
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut connection = GatedStream::new(ours, Some(leadership.clone()));
        leadership.lead(Moment::now());
        leadership.close();
        assert!(connection.write_all(b"the rest").await.is_ok());
    }
}
