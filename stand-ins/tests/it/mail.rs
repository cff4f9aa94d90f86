use std::time::Duration;

use lettre::message::{MultiPart, header::ContentType};
use lettre::transport::smtp::client::Tls;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use stand_ins::mail::{Config, MailFault, StandIn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);

type Transport = AsyncSmtpTransport<Tokio1Executor>;

fn transport(server: &StandIn) -> Transport {
    Transport::builder_dangerous("127.0.0.1")
        .port(server.smtp_address().port())
        .tls(Tls::None)
        .timeout(Some(PATIENCE))
        .build()
}

fn message(to: &str, text: &str) -> Message {
    Message::builder()
        .from("tickets@onsale.test".parse().unwrap())
        .to(to.parse().unwrap())
        .subject("Äpfel & <b>Birnen</b>")
        .message_id(Some("<booking-1@onsale.test>".to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .body(text.to_owned())
        .unwrap()
}

/// Sends `input` at once and returns all replies.
async fn converse(server: &StandIn, input: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.smtp_address()).await.unwrap();
    stream.write_all(input).await.unwrap();
    let mut output = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut output))
        .await
        .unwrap()
        .unwrap();
    output
}

fn codes(conversation: &str) -> Vec<&str> {
    conversation
        .lines()
        .filter(|line| &line[3..4] == " ")
        .map(|line| &line[..3])
        .collect()
}

#[tokio::test]
async fn a_mail_sent_with_lettre_arrives_as_it_was() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let text = ".a line with a dot\r\n..two\r\nplain äöü\r\n";
    transport(&server)
        .send(message("Buyer@Example.com", text))
        .await
        .unwrap();
    let mails = server.inbox().wait_for(1, PATIENCE).await.unwrap();
    let mail = &mails[0];
    assert_eq!(mail.from, "tickets@onsale.test");
    assert_eq!(mail.message_id.as_deref(), Some("booking-1@onsale.test"));
    assert_eq!(mail.subject, "Äpfel & <b>Birnen</b>");
    assert_eq!(mail.text.trim_end(), text.trim_end());
    assert_eq!(server.inbox().to("buyer@example.com").len(), 1);
    assert!(server.inbox().to("other@example.com").is_empty());
}

#[tokio::test]
async fn a_whole_conversation_may_be_sent_ahead() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let said = converse(
        &server,
        b"EHLO me\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRCPT TO:<c@x.test>\r\nDATA\r\n\
          ..stuffed\r\nbody\r\n.\r\nNOOP\r\nMAIL FROM:<a@x.test>\r\nRSET\r\nDATA\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(
        codes(&said),
        [
            "220", "250", "250", "250", "250", "354", "250", "250", "250", "250", "503", "221"
        ]
    );
    let mails = server.inbox().all();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].to, ["b@x.test", "c@x.test"]);
    assert_eq!(mails[0].raw, b".stuffed\r\nbody\r\n");
}

#[tokio::test]
async fn an_empty_mail_ends_at_its_first_dot() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let said = converse(
        &server,
        b"HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n.\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(
        codes(&said),
        ["220", "250", "250", "250", "354", "250", "221"]
    );
    assert!(server.inbox().all()[0].raw.is_empty());
}

#[tokio::test]
async fn wrong_commands_are_refused_and_the_conversation_goes_on() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let said = converse(
        &server,
        b"EHLO me\r\nBLAH\r\nRCPT TO:<b@x.test>\r\nMAIL FROM:nonsense\r\nSTARTTLS\r\nQUIT\r\n",
    )
    .await;
    let codes = codes(&said);
    assert_eq!(
        (codes[0], codes[1], codes[2], codes[3]),
        ("220", "250", "500", "503")
    );
    assert!(codes[4].starts_with("50"), "{said}");
    assert_eq!(codes[codes.len() - 2..], ["502", "221"]);
}

#[tokio::test]
async fn too_large_a_mail_is_refused_and_the_next_one_taken() {
    let config = Config {
        max_message_bytes: 10_000,
        ..Config::default()
    };
    let server = StandIn::start(config).await.unwrap();
    let large = "x".repeat(78) + "\r\n";
    let mut input = b"EHLO me\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\n".to_vec();
    input.extend(large.repeat(1_000).bytes());
    input.extend(b".\r\nMAIL FROM:<a@x.test> SIZE=10001\r\nMAIL FROM:<a@x.test>\r\n");
    input.extend(b"RCPT TO:<b@x.test>\r\nDATA\r\nsmall\r\n.\r\nQUIT\r\n");
    let said = converse(&server, &input).await;
    assert_eq!(
        codes(&said),
        [
            "220", "250", "250", "250", "354", "552", "552", "250", "250", "354", "250", "221"
        ]
    );
    assert_eq!(server.inbox().all()[0].raw, b"small\r\n");
    assert_eq!(server.inbox().len(), 1);
}

#[tokio::test]
async fn faults_happen_as_asked() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let send = || async { transport(&server).send(message("b@x.test", "hello")).await };
    let to = || "b@x.test".to_owned();
    server.faults().next(1, to(), MailFault::TemporaryFailure);
    assert!(send().await.unwrap_err().is_transient());
    server.faults().next(1, to(), MailFault::PermanentFailure);
    assert!(send().await.unwrap_err().is_permanent());
    server.faults().next(1, None, MailFault::RefuseConnection);
    send().await.unwrap_err();
    server.faults().next(1, to(), MailFault::CutBeforeAccept);
    send().await.unwrap_err();
    assert!(server.inbox().is_empty());
    server.faults().next(1, to(), MailFault::AcceptThenCut);
    send().await.unwrap_err();
    assert_eq!(
        server.inbox().len(),
        1,
        "the mail was taken although the sender saw an error"
    );
    send().await.unwrap();
    assert_eq!(server.inbox().len(), 2);
}

#[tokio::test]
async fn each_mail_is_written_to_the_folder() {
    let folder = std::env::temp_dir().join(format!("onsale-mail-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    let config = Config {
        folder: Some(folder.clone()),
        ..Config::default()
    };
    let server = StandIn::start(config).await.unwrap();
    transport(&server)
        .send(message("b@x.test", "hello"))
        .await
        .unwrap();
    let written = std::fs::read(folder.join("1.eml")).unwrap();
    assert_eq!(written, server.inbox().all()[0].raw);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn the_pages_show_a_mail_and_run_nothing_of_it() {
    let server = StandIn::start(Config::default()).await.unwrap();
    let body = MultiPart::alternative_plain_html(
        "plain <script>alert(1)</script>".to_owned(),
        "<p>designed</p><script>alert(2)</script>".to_owned(),
    );
    let mail = Message::builder()
        .from("tickets@onsale.test".parse().unwrap())
        .to("b@x.test".parse().unwrap())
        .subject("<img src=x onerror=alert(3)>")
        .multipart(body)
        .unwrap();
    transport(&server).send(mail).await.unwrap();

    let get = |path: &str| {
        crate::http()
            .get(format!("{}{path}", server.page_url()))
            .send()
    };
    let list = get("/").await.unwrap().text().await.unwrap();
    assert!(
        list.contains("href=\"/1\"") && list.contains("&lt;img src=x"),
        "{list}"
    );
    let page = get("/1").await.unwrap();
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.starts_with("default-src 'none'"));
    let page = page.text().await.unwrap();
    assert!(
        page.contains("<iframe sandbox ") && page.contains("&lt;p&gt;designed"),
        "{page}"
    );
    assert!(
        !page.contains("<script") && !page.contains("<img"),
        "{page}"
    );
    let raw = get("/1.eml").await.unwrap();
    assert_eq!(raw.bytes().await.unwrap(), server.inbox().all()[0].raw);
    assert_eq!(get("/2").await.unwrap().status(), 404);
    let other = get("/?to=nobody").await.unwrap().text().await.unwrap();
    assert!(!other.contains("href=\"/1\""));
}
