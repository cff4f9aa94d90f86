//! An SMTP session (RFC 5321), with PIPELINING, SIZE, 8BITMIME and SMTPUTF8.

use std::sync::Arc;
use std::time::Duration;

use smtp_proto::request::receiver::{DataReceiver, DummyDataReceiver, RequestReceiver};
use smtp_proto::{
    EXT_8BIT_MIME, EXT_PIPELINING, EXT_SIZE, EXT_SMTP_UTF8, EhloResponse, Error, MailFrom, RcptTo,
    Request,
};
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use super::faults::{MailFault, delay};
use super::message::Mail;

/// Idle timeout of a client.
const IDLE: Duration = Duration::from_secs(60);
/// Timeout of writing replies.
const WRITE: Duration = Duration::from_secs(60);
/// Maximum number of recipients of a mail; RFC 5321 requires at least 100.
const MAX_RECIPIENTS: usize = 100;
/// Buffer space reserved for each read.
const CHUNK_BYTES: usize = 16 * 1024;
/// Invalid commands after which the session is closed.
const MAX_MISTAKES: u32 = 20;

/// Next step of the session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Command,
    Data,
    Close,
}

/// Envelope of the mail in progress.
#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

pub(crate) struct Session {
    stream: TcpStream,
    shared: Arc<Shared>,
    envelope: Envelope,
    mistakes: u32,
    /// The client greeted with a fully qualified name.
    is_named_fully: bool,
    /// Received but not yet parsed: a pipelining client sends ahead.
    input: Vec<u8>,
    replies: Vec<u8>,
}

impl Session {
    pub(crate) fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        Self {
            stream,
            shared,
            envelope: Envelope::default(),
            mistakes: 0,
            is_named_fully: false,
            input: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Runs the session until either side closes it.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let refused = MailFault::concerns_connection;
        if self.shared.faults.pick(&String::new(), refused).is_some() {
            return Ok(());
        }
        self.reply("220 localhost ESMTP ready");
        let mut next = Next::Command;
        while next != Next::Close {
            next = match next {
                Next::Data => self.take_message().await?,
                _ => self.take_command().await?,
            };
        }
        self.flush().await
    }

    async fn take_command(&mut self) -> io::Result<Next> {
        let mut receiver = RequestReceiver::default();
        loop {
            let mut unread = self.input.iter();
            let parsed = receiver.ingest(&mut unread).map(Request::into_owned);
            let left = unread.len();
            self.input.drain(..self.input.len() - left);
            match parsed {
                Ok(request) => return Ok(self.obey(request).await),
                Err(Error::NeedsMoreData { .. }) => {
                    // The receiver buffers an incomplete line itself.
                    self.input.clear();
                    if !self.read_more().await? {
                        return Ok(Next::Close);
                    }
                }
                Err(error) => return Ok(self.complain(&error)),
            }
        }
    }

    async fn obey(&mut self, request: Request<String>) -> Next {
        match request {
            Request::Ehlo { host } => self.greet(&host),
            Request::Helo { .. } => {
                self.envelope = Envelope::default();
                self.reply("250 localhost");
            }
            Request::Mail { from } => self.begin(from),
            Request::Rcpt { to } => self.address(to).await,
            Request::Data => return self.announce_data(),
            Request::Rset => {
                self.envelope = Envelope::default();
                self.reply("250 Forgotten");
            }
            Request::Noop { .. } => self.reply("250 OK"),
            Request::Vrfy { .. } => self.reply("252 Send it and see"),
            Request::Quit => {
                self.reply("221 Goodbye");
                return Next::Close;
            }
            _ => self.reply("502 Command not implemented"),
        }
        Next::Command
    }

    fn complain(&mut self, error: &Error) -> Next {
        self.mistakes += 1;
        if self.mistakes > MAX_MISTAKES {
            self.reply("421 Too many mistakes");
            return Next::Close;
        }
        match error {
            Error::UnknownCommand => self.reply("500 Command not recognised"),
            Error::ResponseTooLong => self.reply("500 Line too long"),
            Error::InvalidSenderAddress => self.reply("501 Sender address not understood"),
            Error::InvalidRecipientAddress => self.reply("501 Recipient address not understood"),
            Error::UnsupportedParameter { .. } => self.reply("555 Parameter not supported"),
            _ => self.reply("501 Parameters not understood"),
        }
        Next::Command
    }

    fn greet(&mut self, client: &str) {
        self.envelope = Envelope::default();
        self.is_named_fully = client.contains('.');
        let mut response = EhloResponse::new("localhost");
        response.capabilities = EXT_8BIT_MIME | EXT_PIPELINING | EXT_SIZE | EXT_SMTP_UTF8;
        response.size = self.shared.max_message_bytes;
        response
            .write(&mut self.replies)
            .expect("writing to memory cannot fail");
    }

    fn begin(&mut self, from: MailFrom<String>) {
        if self.envelope.from.is_some() {
            return self.reply("503 One mail at a time");
        }
        if from.size > self.shared.max_message_bytes {
            return self.reply("552 Too large");
        }
        self.envelope.from = Some(from.address);
        self.reply("250 OK");
    }

    async fn address(&mut self, to: RcptTo<String>) {
        if self.envelope.from.is_none() {
            return self.reply("503 MAIL first");
        }
        if self.envelope.to.len() == MAX_RECIPIENTS {
            return self.reply("452 Too many recipients");
        }
        let recipient = to.address.to_lowercase();
        if self.shared.wants_full_names && !self.is_named_fully {
            let reply = "504 5.5.2 Helo command rejected: need fully-qualified hostname";
            return self.reply(reply);
        }
        let fault = MailFault::concerns_recipient;
        match self.shared.faults.pick(&recipient, fault) {
            Some(MailFault::TemporaryFailure) => return self.reply("451 Try again later"),
            Some(MailFault::AnswerRecipient { line }) => return self.reply(&line),
            Some(MailFault::DelayRecipient { milliseconds }) => {
                self.shared.faults.delay(delay(milliseconds)).await;
            }
            Some(_) => return self.reply("550 No such mailbox"),
            None => {}
        }
        self.envelope.to.push(to.address);
        self.reply("250 OK");
    }

    fn announce_data(&mut self) -> Next {
        if self.envelope.from.is_none() {
            self.reply("503 MAIL first");
            return Next::Command;
        }
        if self.envelope.to.is_empty() {
            self.reply("554 No valid recipients");
            return Next::Command;
        }
        self.reply("354 End with a dot on a line of its own");
        Next::Data
    }

    /// Reads the message and replies.
    async fn take_message(&mut self) -> io::Result<Next> {
        let envelope = std::mem::take(&mut self.envelope);
        let Some(raw) = self.read_message().await? else {
            return Ok(Next::Close);
        };
        let Some(raw) = raw else {
            self.reply("552 Too large");
            return Ok(Next::Command);
        };
        let first = envelope
            .to
            .first()
            .map(|to| to.to_lowercase())
            .unwrap_or_default();
        let fault = self.shared.faults.pick(&first, MailFault::concerns_message);
        if fault == Some(MailFault::CutBeforeAccept) {
            self.replies.clear();
            return Ok(Next::Close);
        }
        if let Some(MailFault::AnswerMessage { line }) = &fault {
            self.reply(line);
            return Ok(Next::Command);
        }
        let mail = Mail::receive(envelope.from.unwrap_or_default(), envelope.to, raw);
        let stored = self.shared.store(mail).await;
        match fault {
            Some(MailFault::AcceptThenCut) => {
                self.replies.clear();
                return Ok(Next::Close);
            }
            Some(MailFault::Delay { milliseconds }) => {
                self.shared.faults.delay(delay(milliseconds)).await;
            }
            _ => {}
        }
        match stored {
            Ok(number) => self.reply(&format!("250 Taken as {number}")),
            Err(error) => {
                tracing::warn!(%error, "failed to store a mail");
                self.reply("452 No room");
            }
        }
        Ok(Next::Command)
    }

    /// Reads the message up to the lone dot: `None` if the client disconnected, `Some(None)` if it
    /// was too large and has been skipped.
    async fn read_message(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        let mut receiver = DataReceiver::new();
        let mut message = Vec::new();
        // The line end of the DATA command counts: the first line may be the dot.
        receiver.ingest(&mut b"\r\n".iter(), &mut message);
        message.clear();
        let mut skipping: Option<DummyDataReceiver> = None;
        loop {
            let mut unread = self.input.iter();
            let ended = match &mut skipping {
                Some(skipping) => skipping.ingest(&mut unread),
                None => receiver.ingest(&mut unread, &mut message),
            };
            let left = unread.len();
            self.input.drain(..self.input.len() - left);
            let too_large = skipping.is_some() || message.len() > self.shared.max_message_bytes;
            if ended {
                return Ok(Some((!too_large).then_some(message)));
            }
            if too_large && skipping.is_none() {
                skipping = Some(DummyDataReceiver::new_data(&receiver));
                message = Vec::new();
            }
            if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    /// Flushes replies, then reads; `false` if the client disconnected or timed out.
    async fn read_more(&mut self) -> io::Result<bool> {
        self.flush().await?;
        self.input.reserve(CHUNK_BYTES);
        match timeout(IDLE, self.stream.read_buf(&mut self.input)).await {
            Ok(read) => Ok(read? > 0),
            Err(_) => {
                self.reply("421 Too slow");
                Ok(false)
            }
        }
    }

    fn reply(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.replies.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(self.shared.round_trip).await;
        timeout(WRITE, self.stream.write_all(&self.replies)).await??;
        self.replies.clear();
        Ok(())
    }
}
