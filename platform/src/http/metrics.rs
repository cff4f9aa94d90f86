//! Counts and latencies by route, method and class of status.

use std::array;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Counter, Histogram};

use crate::sync::RwLockExt as _;

const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "other",
];
/// `gone`: the client hung up before the answer was there.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "gone"];
const GONE: usize = CLASSES.len() - 1;

/// Cached metric handles, so that a request need not build its labels.
#[derive(Default)]
pub(super) struct HttpMetrics {
    routes: RwLock<HashMap<String, Arc<RouteMetrics>>>,
}

struct RouteMetrics {
    route: String,
    cells: [OnceLock<(Counter, Histogram)>; METHODS.len() * CLASSES.len()],
}

impl HttpMetrics {
    /// Counts one request, without a status if its client hung up. `route` must be a template: the
    /// set of routes is small.
    pub(super) fn record(
        &self,
        route: &str,
        method: &Method,
        status: Option<StatusCode>,
        latency: Duration,
    ) {
        let routes = self.routes.read_unpoisoned();
        if let Some(known) = routes.get(route) {
            return known.record(method, status, latency);
        }
        drop(routes);
        let mut routes = self.routes.write_unpoisoned();
        let entry = routes
            .entry(route.to_owned())
            .or_insert_with(|| RouteMetrics::new(route));
        entry.record(method, status, latency);
    }
}

impl RouteMetrics {
    fn new(route: &str) -> Arc<Self> {
        Arc::new(Self {
            route: route.to_owned(),
            cells: array::from_fn(|_| OnceLock::new()),
        })
    }

    fn record(&self, method: &Method, status: Option<StatusCode>, latency: Duration) {
        let method = METHODS
            .iter()
            .position(|name| *name == method.as_str())
            .unwrap_or(METHODS.len() - 1);
        let class = status.map_or(GONE, |status| {
            usize::from(status.as_u16() / 100).clamp(1, GONE) - 1
        });
        let (count, seconds) = self.cells[method * CLASSES.len() + class].get_or_init(|| {
            let labels = [
                ("route", self.route.clone()),
                ("method", METHODS[method].to_owned()),
                ("status", CLASSES[class].to_owned()),
            ];
            (
                metrics::counter!("http_requests_total", &labels),
                metrics::histogram!("http_request_duration_seconds", &labels),
            )
        });
        count.increment(1);
        seconds.record(latency);
    }
}
