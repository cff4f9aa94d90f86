//! HTTP client with connection reuse: a call is one round trip, without TCP and TLS handshakes
//! before it. (The client of async-stripe opens a connection for each call.) Connects through the
//! forward proxy that `HTTPS_PROXY` names.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use miniserde::json::from_str;
use platform::causes::with_causes;
use platform::config::InvalidConfig;
use platform::egress;
use secrecy::{ExposeSecret, SecretString};
use stripe_client_core::{
    CustomizedStripeRequest, IdempotencyKey, RequestBuilder, RequestStrategy, StripeClient,
    StripeClientErr, StripeMethod,
};
use stripe_shared::ApiErrors;
use tokio::net::TcpStream;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use url::Url;

/// Timeout of connecting.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Idle time after which a connection is closed: well below what servers allow, so that a request
/// seldom meets one that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// `User-Agent`, shown in Stripe's logs.
const USER_AGENT: &str = concat!("Onsale/", env!("CARGO_PKG_VERSION"));
/// The API version that the library's types are made for.
const VERSION: stripe_shared::ApiVersion = stripe_shared::version::VERSION;

/// Connects to Stripe, or to the proxy that leads there.
type Connector =
    BoxCloneSyncService<Uri, TokioIo<TcpStream>, Box<dyn std::error::Error + Send + Sync>>;

/// Sends each request once, without retries.
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
    base: String,
    authorization: HeaderValue,
    timeout: Duration,
}

/// Why a request returned no object.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Stripe answered with an error.
    #[error("Stripe answered {status}")]
    Answer {
        status: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
        error: Box<ApiErrors>,
    },
    /// The answer is not what it should be.
    #[error("the answer can't be read: {0}")]
    Unreadable(String),
    /// The connection failed, before the request or after it.
    #[error("no answer: {0}")]
    Connection(String),
    #[error("no answer in time")]
    Timeout,
}

impl StripeClientErr for ClientError {
    fn deserialize_err(message: impl Display) -> Self {
        Self::Unreadable(message.to_string())
    }
}

impl Client {
    /// Connects to the account of this key at `url`, with `timeout` for each call.
    ///
    /// # Errors
    /// When the key is no valid header value, or the environment names a proxy that can't be used.
    pub(super) fn new(
        secret_key: &SecretString,
        url: &Url,
        timeout: Duration,
    ) -> Result<Self, InvalidConfig> {
        Self::with_proxies(&Matcher::from_env(), secret_key, url, timeout)
    }

    fn with_proxies(
        proxies: &Matcher,
        secret_key: &SecretString,
        url: &Url,
        timeout: Duration,
    ) -> Result<Self, InvalidConfig> {
        let bearer = format!("Bearer {}", secret_key.expose_secret());
        let mut authorization = HeaderValue::try_from(bearer)
            .map_err(|_| InvalidConfig::new("STRIPE_SECRET_KEY has characters no key has"))?;
        authorization.set_sensitive(true);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        let tls = HttpsConnectorBuilder::new();
        let tls = match platform::tls::client_config() {
            Some(trusting) => tls.with_tls_config(trusting),
            None => tls.with_webpki_roots(),
        };
        let tls = tls
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector(tcp, proxy_to(url, proxies)?));
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(tls);
        Ok(Self {
            http,
            base: url.as_str().trim_end_matches('/').to_owned(),
            authorization,
            timeout,
        })
    }

    fn request(
        &self,
        request: RequestBuilder,
        key: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut uri = format!("{}/v1{}", self.base, request.path);
        if let Some(query) = request.query {
            uri.push('?');
            uri.push_str(&query);
        }
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let mut builder = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::USER_AGENT, USER_AGENT)
            .header(HeaderName::from_static("stripe-version"), VERSION.as_str());
        if let Some(key) = key {
            builder = builder.header(HeaderName::from_static("idempotency-key"), key);
        }
        if request.body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Full::new(Bytes::from(request.body.unwrap_or_default()));
        builder
            .body(body)
            .map_err(|error| ClientError::Connection(error.to_string()))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError> {
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|error| ClientError::Connection(with_causes(&error)))?;
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        let body = read(answer).await?;
        if status.is_success() {
            return Ok(body);
        }
        let text = std::str::from_utf8(&body).ok();
        let error: Option<stripe_shared::Error> = text.and_then(|text| from_str(text).ok());
        match error {
            Some(error) => Err(ClientError::Answer {
                status: status.as_u16(),
                retry_after,
                error: error.error,
            }),
            None => Err(ClientError::Unreadable(format!(
                "an error of status {status}"
            ))),
        }
    }
}

impl StripeClient for Client {
    type Err = ClientError;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, ClientError> {
        let (request, settings) = request.into_pieces();
        let strategy = settings.request_strategy.as_ref();
        let key = strategy.and_then(RequestStrategy::get_key);
        let request = self.request(request, key.as_ref().map(IdempotencyKey::as_str))?;
        tokio::time::timeout(self.timeout, self.send(request))
            .await
            .unwrap_or(Err(ClientError::Timeout))
    }
}

/// Returns the proxy for calls to `url`.
///
/// # Errors
/// When it can't be reached by plain HTTP.
fn proxy_to(url: &Url, proxies: &Matcher) -> Result<Option<Intercept>, InvalidConfig> {
    let uri: Result<Uri, _> = url.as_str().parse();
    let proxy = match uri {
        Ok(uri) if egress::may_use_proxy(url) => proxies.intercept(&uri),
        _ => None,
    };
    match &proxy {
        Some(proxy) if proxy.uri().scheme_str() != Some("http") => Err(InvalidConfig::new(
            "HTTPS_PROXY must begin with http://; it may name any host that answers CONNECT",
        )),
        _ => Ok(proxy),
    }
}

fn connector(tcp: HttpConnector, proxy: Option<Intercept>) -> Connector {
    match proxy {
        Some(proxy) => {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            BoxCloneSyncService::new(tunnel.map_err(Into::into))
        }
        None => BoxCloneSyncService::new(tcp.map_err(Into::into)),
    }
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    let read = answer.into_body().collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| ClientError::Connection(with_causes(&error)))
}

/// Parses `Retry-After` in seconds; Stripe sends no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use stand_ins::stripe::{Config, StandIn};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    async fn call(proxies: &Matcher, key: &str, url: &str) -> Result<Bytes, ClientError> {
        let url = url.parse().unwrap();
        let client = Client::with_proxies(proxies, &key.into(), &url, TIMEOUT).unwrap();
        let request = RequestBuilder::new(StripeMethod::Get, "/payment_intents");
        client.send(client.request(request, None).unwrap()).await
    }

    /// Reads one request for a tunnel, and declines it.
    async fn declined(proxy: TcpListener) -> Vec<String> {
        let (stream, _) = proxy.accept().await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut read = Vec::new();
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.is_empty() {
                break;
            }
            read.push(line);
        }
        let stream = lines.get_mut();
        stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            .await
            .unwrap();
        read
    }

    #[tokio::test]
    async fn calls_to_stripe_go_through_the_proxy() {
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = proxy.local_addr().unwrap();
        let proxies = Matcher::builder()
            .https(format!("http://me:hush@{at}"))
            .build();
        let calling = call(&proxies, "sk_test_1", "https://api.stripe.test");
        let (outcome, read) = tokio::join!(calling, declined(proxy));
        assert_eq!(read[0], "CONNECT api.stripe.test:443 HTTP/1.1");
        assert!(
            read.contains(&"Proxy-Authorization: Basic bWU6aHVzaA==".to_owned()),
            "{read:?}"
        );
        assert!(read.iter().all(|line| !line.contains("sk_test_1")));
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("tunnel") && !error.contains("hush"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn calls_inside_the_installation_pass_by_a_dead_proxy() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let stripe = StandIn::start(Config::default()).await.unwrap();
        let proxies = Matcher::builder().all(dead).build();
        let answer = call(&proxies, stripe.secret_key(), &stripe.url()).await;
        answer.unwrap();
    }

    #[test]
    fn a_host_of_no_proxy_is_reached_directly() {
        let proxies = Matcher::builder()
            .all("http://proxy.test:3128")
            .no("stripe.inside.test");
        let proxies = proxies.build();
        let is_direct = |url: &str| {
            let proxy = proxy_to(&url.parse().unwrap(), &proxies).unwrap();
            proxy.is_none()
        };
        assert!(is_direct("https://stripe.inside.test"));
        assert!(is_direct("http://stand-ins:12111"));
        assert!(!is_direct("https://api.stripe.com"));
    }

    #[test]
    fn a_proxy_that_is_no_http_proxy_is_refused() {
        let proxies = Matcher::builder().all("socks5://proxy.test:1080").build();
        let refused = proxy_to(&"https://api.stripe.com".parse().unwrap(), &proxies);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("HTTPS_PROXY"), "{error}");
    }
}
