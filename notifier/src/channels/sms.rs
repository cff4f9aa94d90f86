//! SMS through Twilio's HTTP API.

use std::time::Duration;

use platform::config::InvalidConfig;
use platform::egress;
use reqwest::{Client, Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::DeliveryOutcome;
use crate::config::SmsSettings;
use crate::recorder::Handover;

/// Time limit for one request.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Client of one account at a Twilio-compatible provider.
#[derive(Debug)]
pub(super) struct SmsProvider {
    client: Client,
    endpoint: Url,
    account: String,
    token: SecretString,
    from: String,
}

/// Body of an error response.
#[derive(Debug, Deserialize)]
struct ProviderError {
    code: Option<i64>,
    message: Option<String>,
}

impl SmsProvider {
    pub(super) fn new(settings: SmsSettings<'_>) -> Result<Self, InvalidConfig> {
        let mut endpoint = settings.url.clone();
        endpoint
            .path_segments_mut()
            .map_err(|()| InvalidConfig::new("ONSALE_SMS_URL must begin with http:// or https://"))?
            .pop_if_empty()
            .extend(["2010-04-01", "Accounts", settings.account, "Messages.json"]);
        let mut client = Client::builder()
            .timeout(LIMIT)
            // A redirect would send the token to another host.
            .redirect(redirect::Policy::none());
        if !egress::may_use_proxy(&endpoint) {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|error| InvalidConfig::new(format!("no SMS can be sent: {error}")))?;
        Ok(Self {
            client,
            endpoint,
            account: settings.account.to_owned(),
            token: settings.token.clone(),
            from: settings.from.to_owned(),
        })
    }

    /// Sends a message, after recording `handover` if given. Twilio has no idempotency key, so a
    /// lost response leaves the outcome unknown.
    pub(super) async fn send(
        &self,
        to: &str,
        body: &str,
        handover: Option<&Handover<'_>>,
    ) -> DeliveryOutcome {
        if let Some(handover) = handover
            && let Err(reason) = handover.begin().await
        {
            return DeliveryOutcome::Withheld(reason);
        }
        let sending = self
            .client
            .post(self.endpoint.clone())
            .basic_auth(&self.account, Some(self.token.expose_secret()))
            .form(&[("To", to), ("From", &self.from), ("Body", body)])
            .send();
        match sending.await {
            Ok(response) if response.status().is_success() => DeliveryOutcome::Accepted,
            Ok(response) => refusal(response).await,
            Err(error) if error.is_connect() => DeliveryOutcome::Unreachable(format!(
                "failed to connect to the SMS provider: {error}"
            )),
            Err(error) => {
                DeliveryOutcome::Unknown(format!("no answer from the SMS provider: {error}"))
            }
        }
    }
}

async fn refusal(response: Response) -> DeliveryOutcome {
    let status = response.status();
    let reason = match response.json::<ProviderError>().await {
        Ok(ProviderError {
            code: Some(code),
            message: Some(message),
        }) => {
            format!("{status}: {code} {message}")
        }
        Ok(ProviderError {
            message: Some(message),
            ..
        }) => format!("{status}: {message}"),
        Ok(_) | Err(_) => status.to_string(),
    };
    meaning(status, reason)
}

fn meaning(status: StatusCode, reason: String) -> DeliveryOutcome {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            DeliveryOutcome::Deferred(reason)
        }
        // A problem with the account at the provider, not with this message.
        StatusCode::UNAUTHORIZED
        | StatusCode::PAYMENT_REQUIRED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND => DeliveryOutcome::Unreachable(reason),
        _ if status.is_client_error() => DeliveryOutcome::Refused(reason),
        // The provider may have accepted the message before it failed.
        _ => DeliveryOutcome::Unknown(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use stand_ins::sms::{Config, StandIn};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;
    use tokio::process::Command;

    use super::*;

    async fn send(url: &str, account: &str, token: &str) -> DeliveryOutcome {
        let settings = SmsSettings {
            url: &url.parse().unwrap(),
            account,
            token: &token.into(),
            from: "+4930123456",
        };
        let provider = SmsProvider::new(settings).unwrap();
        provider.send("+491701234567", "Hello", None).await
    }

    /// Set in the process behind a proxy.
    const BEHIND_A_PROXY: &str = "ONSALE_TEST_BEHIND_A_PROXY";

    async fn send_inside_and_outside() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inside = StandIn::start(Config::default()).await.unwrap();
        let outcome = send(&inside.url(), inside.account_sid(), inside.auth_token()).await;
        assert_eq!(outcome, DeliveryOutcome::Accepted);
        let outcome = send("https://sms.test", "AC1", "hush").await;
        assert!(
            matches!(outcome, DeliveryOutcome::Unreachable(_)),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn only_a_provider_outside_is_reached_through_the_proxy() {
        // The proxy comes from the environment, so the test runs itself in one that has a proxy.
        if std::env::var_os(BEHIND_A_PROXY).is_some() {
            return send_inside_and_outside().await;
        }
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", proxy.local_addr().unwrap());
        let sending = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "channels::sms::tests::only_a_provider_outside_is_reached_through_the_proxy",
            ])
            .env(BEHIND_A_PROXY, "1")
            .envs([
                ("HTTP_PROXY", &at),
                ("HTTPS_PROXY", &at),
                ("ALL_PROXY", &at),
            ])
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
            .wait_with_output();
        let declining = async {
            let (stream, _) = proxy.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(line, "CONNECT sms.test:443 HTTP/1.1\r\n");
            while stream.read_line(&mut line).await.unwrap() > 2 {}
            let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            std::future::pending::<()>().await;
        };
        let sent = tokio::select! {
            sent = sending => sent.unwrap(),
            () = declining => unreachable!("it waits for the sender"),
        };
        let shown = String::from_utf8_lossy(&sent.stdout);
        assert!(shown.contains("1 passed"), "{shown}");
    }

    #[test]
    fn only_what_was_certainly_not_taken_is_tried_again() {
        let of = |status: u16| meaning(StatusCode::from_u16(status).unwrap(), String::new());
        let none = String::new;
        assert_eq!(of(400), DeliveryOutcome::Refused(none()));
        assert_eq!(of(401), DeliveryOutcome::Unreachable(none()));
        assert_eq!(of(429), DeliveryOutcome::Deferred(none()));
        assert_eq!(of(500), DeliveryOutcome::Unknown(none()));
        assert_eq!(of(502), DeliveryOutcome::Unknown(none()));
    }
}
