//! Minimal HTTP/1.1 client: the load generator shares its cores with its subject.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Initial size of the buffer.
const BUFFER_BYTES: usize = 16 * 1024;
/// Bound on the size of a response.
const MAX_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A keep-alive connection with one request at a time.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response.
pub(super) struct Response<'a> {
    pub(super) status: u16,
    /// Status line and headers.
    pub(super) head: &'a [u8],
    pub(super) body: &'a [u8],
}

impl Connection {
    pub(super) async fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Sends `request` verbatim and reads the response, which must have a Content-Length.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Response<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let mut frame = None;
        loop {
            if filled == self.buffer.len() && filled < MAX_BUFFER_BYTES {
                self.buffer.resize(filled * 4, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(broken(
                    "the connection or the buffer ended within an answer",
                ));
            }
            filled += read;
            if frame.is_none() {
                frame = Frame::of(&self.buffer[..filled])?;
            }
            if let Some(Frame { status, head, end }) = frame
                && filled >= end
            {
                return Ok(Response {
                    status,
                    head: &self.buffer[..head],
                    body: &self.buffer[head..end],
                });
            }
        }
    }
}

/// Offsets of a response's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    status: u16,
    head: usize,
    end: usize,
}

impl Frame {
    /// Parses the head; `None` while it is incomplete.
    fn of(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(blank) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..blank]).map_err(|_| broken("not HTTP"))?;
        let status = text
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| broken("no status"))?;
        let length: usize = headers(text)
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.parse().ok())
            .or_else(|| (status == 204).then_some(0))
            .ok_or_else(|| broken("no Content-Length"))?;
        let head = blank + 4;
        Ok(Some(Self {
            status,
            head,
            end: head + length,
        }))
    }
}

/// Returns the header fields in `head`.
pub(super) fn headers(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_its_length_says() {
        let bytes = b"HTTP/1.1 201 Created\r\nx: y\r\ncontent-Length: 2\r\n\r\nok";
        let frame = Frame::of(bytes).unwrap().unwrap();
        assert_eq!((frame.status, frame.end), (201, bytes.len()));
        assert_eq!(&bytes[frame.head..], b"ok");
    }

    #[test]
    fn half_a_head_is_no_answer_yet_and_rubbish_never_is() {
        assert_eq!(Frame::of(b"HTTP/1.1 200 OK\r\ncont").unwrap(), None);
        assert!(Frame::of(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Frame::of(b"hello\r\n\r\n").is_err());
    }
}
