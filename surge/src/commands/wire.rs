//! HTTP/1.1 as cheaply as it goes: the load generator shares its cores with what it measures.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What an answer is expected to fit in.
const BUFFER_BYTES: usize = 16 * 1024;
/// Longest answer.
const MAX_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// One kept-alive connection with one request at a time.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as far as it is read.
pub(super) struct Answer<'a> {
    /// The status.
    pub(super) status: u16,
    /// Status line and headers.
    pub(super) head: &'a [u8],
    /// The body.
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

    /// Sends `request` as it is and reads the whole answer, which must have a Content-Length.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
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
                return Ok(Answer {
                    status,
                    head: &self.buffer[..head],
                    body: &self.buffer[head..end],
                });
            }
        }
    }
}

/// Where an answer's parts end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    status: u16,
    head: usize,
    end: usize,
}

impl Frame {
    /// `None` while the headers are not complete.
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

/// Names and values in `head`.
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
