//! An API server for tests: it answers from a function, and tells what it was asked.

use std::sync::{Arc, Mutex};

use axum::http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// What the API server was asked.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Asked {
    /// The method and the path, without what follows a question mark.
    pub(crate) what: String,
    /// What was sent; null when nothing.
    pub(crate) body: Value,
}

/// A client of an API server that answers so; what is `None` is not found, and a `Status` of failure has its code. What changes
/// something is told.
pub(crate) fn api(
    answer: impl Fn(&Asked) -> Option<Value> + Send + Sync + 'static,
) -> (Client, Arc<Mutex<Vec<Asked>>>) {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let told = changes.clone();
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (told, answer) = (told.clone(), answer.clone());
        async move {
            let what = format!("{} {}", request.method(), request.uri().path());
            let body = request.into_body().collect().await?.to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let asked = Asked { what, body };
            let missing =
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
            let found = answer(&asked);
            if !asked.what.starts_with("GET") {
                told.lock().unwrap().push(asked);
            }
            let body = found.unwrap_or(missing);
            let code = match &body {
                status if status["status"] == "Failure" => status["code"].as_u64().unwrap() as u16,
                _ => 200,
            };
            let body = Body::from(body.to_string().into_bytes());
            let response = Response::builder().status(code).body(body);
            Ok::<_, kube::Error>(response.unwrap())
        }
    });
    (Client::new(service, "ns"), changes)
}
