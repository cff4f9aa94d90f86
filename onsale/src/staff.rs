//! A client of the staff API for commands: its session outlives the command and is renewed before
//! it expires, and calls are retried after `Retry-After`.

mod session_file;

use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use domain::clock::{Clock as _, SystemClock};
use platform::egress;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::warn;
use session_file::{Session, SessionFile};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a call is retried while the server is busy or limits it.
const PATIENCE: Duration = Duration::from_secs(60);
/// A token that expires sooner is renewed first.
const RENEW_BEFORE: TimeDelta = TimeDelta::seconds(30);

#[derive(Args)]
pub(crate) struct StaffArgs {
    /// The internal listener of box-office
    #[arg(
        long,
        env = "ONSALE_INTERNAL_URL",
        default_value = "http://127.0.0.1:8081",
        global = true
    )]
    url: Url,
    /// The address a member of staff signs in with
    #[arg(long, env = "ONSALE_STAFF_EMAIL", default_value = "", global = true)]
    email: String,
    /// The password; needed when no session is stored in $XDG_STATE_HOME/onsale
    #[arg(
        long,
        env = "ONSALE_STAFF_PASSWORD",
        hide_env_values = true,
        default_value = "",
        global = true
    )]
    password: SecretString,
}

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// There was no answer, or none in time.
    #[error("can't reach {url}")]
    Unreachable {
        /// The URL of the call.
        url: Url,
        /// The transport's error.
        #[source]
        source: reqwest::Error,
    },
    /// The server refused it.
    #[error("{text}")]
    Refused {
        status: StatusCode,
        /// Title and detail of the problem.
        text: String,
    },
    /// The command itself failed.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl CallError {
    /// Returns whether the same call may succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Other(_) => false,
        }
    }
}

/// The staff API as one member of staff.
pub(crate) struct Staff {
    client: reqwest::Client,
    url: Url,
    email: String,
    password: SecretString,
    file: Option<SessionFile>,
    session: Option<Session>,
}

impl Staff {
    /// Resumes the session that an earlier command stored; the first call renews it or signs in.
    pub(crate) fn new(args: StaffArgs) -> anyhow::Result<Self> {
        if args.email.is_empty() {
            bail!(
                "say who you are: set ONSALE_STAFF_EMAIL and ONSALE_STAFF_PASSWORD, or --email and --password"
            );
        }
        let file = SessionFile::of(&args.url, &args.email);
        let session = file.as_ref().and_then(SessionFile::read);
        Ok(Self {
            file,
            session,
            ..Self::unsaved(args.url, args.email, args.password)?
        })
    }

    /// A member of staff whose session is not saved for later commands.
    pub(crate) fn unsaved(url: Url, email: String, password: SecretString) -> anyhow::Result<Self> {
        let mut client = reqwest::Client::builder().timeout(REQUEST_TIMEOUT);
        if !egress::may_use_proxy(&url) {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client.build()?,
            url,
            email,
            password,
            file: None,
            session: None,
        })
    }

    /// Calls the API, retrying while the server is busy and after a renewal of the session. All
    /// tries have one `Idempotency-Key`.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let (key, is_fresh) = (Uuid::new_v4(), self.is_fresh());
        if !is_fresh {
            self.renew().await?;
        }
        let outcome = self.call_as_signed_in(&method, path, body, key).await;
        match outcome {
            // Expired by the server's clock, or its secret was dropped.
            Err(CallError::Refused {
                status: StatusCode::UNAUTHORIZED,
                ..
            }) if is_fresh => {
                self.renew().await?;
                self.call_as_signed_in(&method, path, body, key).await
            }
            outcome => outcome,
        }
    }

    async fn call_as_signed_in(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        key: Uuid,
    ) -> Result<Value, CallError> {
        let token = self.session.as_ref().map(|session| &session.access_token);
        self.send(method, path, body, key, token.map(String::as_str))
            .await
    }

    fn is_fresh(&self) -> bool {
        let limit = now() + RENEW_BEFORE;
        let session = self.session.as_ref();
        session.is_some_and(|session| session.expires_at > limit)
    }

    /// Renews the session, or signs in when there is none or it has ended.
    async fn renew(&mut self) -> Result<(), CallError> {
        let begun = match &self.session {
            Some(session) => {
                let body = json!({ "refresh_token": session.refresh_token });
                let path = "/api/sessions/refresh";
                match self
                    .send(&Method::POST, path, Some(&body), Uuid::new_v4(), None)
                    .await
                {
                    Err(CallError::Refused {
                        status: StatusCode::UNAUTHORIZED,
                        ..
                    }) => self.sign_in().await?,
                    outcome => outcome?,
                }
            }
            None => self.sign_in().await?,
        };
        let session = Session::of(&begun["session"], now())?;
        if let Some(file) = &self.file
            && let Err(error) = file.write(&session)
        {
            warn(format_args!("the session was not stored: {error:#}"));
        }
        self.session = Some(session);
        Ok(())
    }

    async fn sign_in(&self) -> Result<Value, CallError> {
        let password = self.password.expose_secret();
        if password.is_empty() {
            let missing = "no session is stored here: set ONSALE_STAFF_PASSWORD, or --password";
            return Err(CallError::Other(anyhow::anyhow!(missing)));
        }
        let body = json!({ "email": self.email, "password": password });
        let path = "/api/sessions";
        self.send(&Method::POST, path, Some(&body), Uuid::new_v4(), None)
            .await
    }

    /// Sends a request, retrying on 429 and 503 for at most [`PATIENCE`].
    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        key: Uuid,
        token: Option<&str>,
    ) -> Result<Value, CallError> {
        let url = self.url.join(path).context("the URL of the staff API")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut request = self.client.request(method.clone(), url.clone());
            request = request.header("idempotency-key", key.to_string());
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            let unreachable = |source| CallError::Unreachable {
                url: url.clone(),
                source,
            };
            let response = request.send().await.map_err(unreachable)?;
            match retry_after(&response) {
                Some(wait) if Instant::now() + wait <= deadline => {
                    warn(format_args!(
                        "the server is busy; trying again in {} s",
                        wait.as_secs()
                    ));
                    tokio::time::sleep(wait).await;
                }
                wait => return read(response, wait).await.map_err(unreachable)?,
            }
        }
    }
}

fn now() -> DateTime<Utc> {
    SystemClock.now()
}

/// The `Retry-After` of a 429 or 503; `None` for any other answer.
fn retry_after(response: &Response) -> Option<Duration> {
    let is_later = matches!(
        response.status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|wait| wait.to_str().ok())
        .and_then(|wait| wait.parse().ok());
    is_later.then(|| Duration::from_secs(seconds.unwrap_or(1)))
}

async fn read(
    response: Response,
    wait: Option<Duration>,
) -> Result<Result<Value, CallError>, reqwest::Error> {
    let status = response.status();
    let bytes = response.bytes().await?;
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if status.is_success() {
        return Ok(Ok(answer));
    }
    let wait = wait.map(|wait| format!(" Try again in {} s.", wait.as_secs()));
    let text = match (answer["title"].as_str(), answer["detail"].as_str()) {
        (Some(title), detail) => format!("{title}: {}", detail.unwrap_or_default()),
        _ => format!("the server answered {status}"),
    };
    let text = text + wait.as_deref().unwrap_or_default();
    Ok(Err(CallError::Refused { status, text }))
}
