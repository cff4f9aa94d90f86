//! What mails hold.

use crate::stage::{EMAIL, Stage, event};

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
