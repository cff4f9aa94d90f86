//! Contents of mails.

use domain::clock::SystemClock;
use domain::message::{AccountChanged, ContactChannel};
use platform::testing::eventually;
use stand_ins::mail;

use crate::stage::{ACCOUNT, EMAIL, SOON, Stage, event};

#[tokio::test]
async fn a_confirmation_has_a_code_for_each_ticket_and_a_calendar_file() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let paid = stage.pay(&event).await;
    let id = paid.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    let mails = stage.mails(id, "confirmed");
    let mail = &mails[0];

    assert_eq!(mail.to, [EMAIL]);
    assert_eq!(
        mail.message_id.as_deref(),
        Some(&*format!("confirmed.0.{id}@onsale.test"))
    );
    assert_eq!(mail.subject, "Your tickets for Gala");
    let link = stage
        .app
        .ctx
        .config
        .public_url
        .join(&format!("bookings/{id}"))
        .unwrap();
    let link_line = format!("Your booking: {link}");
    assert!(
        mail.text.lines().any(|line| line == link_line),
        "{}",
        mail.text
    );
    let html = mail.html().unwrap();
    assert!(html.contains(&format!("href=\"{link}\"")), "{html}");

    let attachments = mail.attachments();
    let images: Vec<_> = attachments
        .iter()
        .filter(|file| file.media_type == "image/png")
        .collect();
    assert_eq!(images.len(), paid.tickets.len());
    assert_ne!(images[0].content, images[1].content);
    for (image, ticket) in images.iter().zip(&paid.tickets) {
        assert!(image.content.starts_with(b"\x89PNG\r\n\x1a\n"));
        let shown = format!("src=\"cid:{}\"", image.content_id.as_deref().unwrap());
        assert!(
            html.contains(&shown) && html.contains(&ticket.code),
            "{html}"
        );
        assert!(mail.text.contains(&ticket.code), "{}", mail.text);
    }

    let file = attachments
        .iter()
        .find(|file| file.media_type == "text/calendar")
        .unwrap();
    assert_eq!(file.name, "event.ics");
    let entry = String::from_utf8(file.content.clone()).unwrap();
    let start = event.date.format("DTSTART:%Y%m%dT%H%M%SZ");
    for line in [
        "BEGIN:VCALENDAR",
        "SUMMARY:Gala",
        "LOCATION:Opera\\, Berlin",
        &format!("UID:{id}@onsale.test"),
        &start.to_string(),
        "DURATION:PT3H",
        "METHOD:PUBLISH",
        "ORGANIZER;CN=\"Onsale\":mailto:tickets@onsale.test",
        "END:VCALENDAR",
    ] {
        assert!(
            entry.split("\r\n").any(|found| found == line),
            "no {line} in {entry}"
        );
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn a_name_can_neither_add_headers_nor_html() {
    let stage = Stage::start().await;
    let mut event = event(&stage.app.ctx.clock);
    event.name = "<script>alert(1)</script>\r\nBcc: all@buyers.test\r\n\r\nÄ".into();
    stage.introduce(&event, None).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    let mails = stage.mails(id, "confirmed");
    let mail = &mails[0];
    assert_eq!(mail.to, [EMAIL]);
    assert_eq!(mail.header("Bcc"), None);
    assert_eq!(
        mail.subject,
        "Your tickets for <script>alert(1)</script> Bcc: all@buyers.test Ä"
    );
    let html = mail.html().unwrap();
    assert!(
        !html.contains("<script>") && html.contains("&lt;script&gt;"),
        "{html}"
    );
    stage.app.finish().await;
}

#[tokio::test]
async fn mails_say_that_no_person_wrote_them_and_where_answers_go() {
    let flags = &[
        "--mail-reply-to=Help <help@onsale.test>",
        "--mail-bounces-to=bounces@onsale.test",
    ];
    let stage = Stage::start_at(SystemClock::shared(), mail::Config::default(), flags).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    stage.ask_for_code(ContactChannel::Email, EMAIL).await;
    // One confirmation, and the code, which is sent as often as it is delivered.
    stage.mail.inbox().wait_for(3, SOON).await.unwrap();
    for mail in stage.mail.inbox().all() {
        let header = |name| mail.header(name).unwrap_or_default();
        assert_eq!(header("Auto-Submitted"), "auto-generated");
        assert!(header("Reply-To").contains("help@onsale.test"));
        assert!(header("From").contains("tickets@onsale.test"));
        assert_eq!(mail.from, "bounces@onsale.test");
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn a_booking_that_ends_leaves_the_calendar() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let paid = stage.pay(&event).await;
    let id = paid.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    stage.cancel(&paid).await;
    stage.mail_is(id, "cancelled", "sent").await;
    let lines_of = |kind| {
        let mails = stage.mails(id, kind);
        let files = mails[0].attachments();
        let file = files.iter().find(|file| file.name == "event.ics").unwrap();
        let file = String::from_utf8(file.content.clone()).unwrap();
        file.split("\r\n").map(str::to_owned).collect::<Vec<_>>()
    };
    let (entry, end) = (lines_of("confirmed"), lines_of("cancelled"));
    let value = |lines: &[String], key: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(key));
        line.unwrap().to_owned()
    };
    assert_eq!(value(&entry, "UID:"), value(&end, "UID:"));
    assert_eq!(value(&end, "METHOD:"), "CANCEL");
    assert_eq!(value(&end, "STATUS:"), "CANCELLED");
    let sequence = |lines: &[String]| value(lines, "SEQUENCE:").parse::<i64>().unwrap();
    assert!(sequence(&end) > sequence(&entry));
    stage.app.finish().await;
}

#[tokio::test]
async fn a_strangers_advertisement_is_no_name() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage
        .tell(&AccountChanged {
            account_id: ACCOUNT,
            version: 2,
            email: EMAIL.to_owned(),
            name: "WIN 500 EUR http://evil.example now".to_owned(),
            phone: None,
        })
        .await;
    let renamed = "select count(*) from notifier.accounts where version = 2";
    eventually(SOON, async || stage.number(renamed).await == 1).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    let raw = String::from_utf8(stage.mails(id, "confirmed")[0].raw.clone()).unwrap();
    assert!(!raw.contains("evil.example"), "{raw}");
    assert!(stage.mails(id, "confirmed")[0].text.starts_with("Hello,"));
    stage.app.finish().await;
}
