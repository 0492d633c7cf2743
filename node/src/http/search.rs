//! `/v1/search`: files by keywords.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use peernet_proto::v1;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::files::{FileView, call, page_limit};
use super::parameters::{label_or_nothing, place_or_nothing, type_or_nothing};
use super::problem::Problem;
use crate::daemon::Life;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// Words that a file must all have in its name, tags or content type; the last of several may be the beginning of
    /// one.
    #[serde(default)]
    #[param(max_length = 1024, example = "holiday beach")]
    q: String,
    /// A tag that it must have.
    #[serde(default)]
    #[param(schema_with = label_or_nothing)]
    tag: String,
    /// Its content type, or the first half of it.
    #[serde(default, rename = "type")]
    #[param(schema_with = type_or_nothing, example = "image")]
    content_type: String,
    /// `next` of the page before.
    #[serde(default)]
    #[param(schema_with = place_or_nothing)]
    after: String,
    /// Most files on the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// What was found.
#[derive(Serialize, ToSchema)]
#[schema(as = Found)]
struct FoundView {
    /// In no order that means anything, but always the same.
    files: Vec<FileView>,
    /// Give as `after` for the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    cost: CostView,
}

/// What a page cost the network.
#[derive(Serialize, ToSchema)]
#[schema(as = SearchCost)]
struct CostView {
    /// Other peers asked.
    peers: u32,
    /// Messages between peers, answers included.
    messages: u32,
    /// Parts of the index that were read.
    shards: u32,
}

/// Finds files by keywords
///
/// From an index that follows the files within seconds. At least one word, tag or content type has to be given.
#[utoipa::path(
    get,
    path = "/v1/search",
    operation_id = "searchFiles",
    tag = "files",
    params(Question),
    responses(
        (status = 200, body = FoundView, description = "A page"),
        (status = 400, response = Problem),
    )
)]
pub(super) async fn find(
    State(life): State<Arc<Life>>,
    query: Result<Query<Question>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Question {
        q,
        tag,
        content_type,
        after,
        limit,
    }) = query.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = page_limit(limit)?;
    let request = v1::FindRequest {
        query: q,
        tags: Some(tag)
            .filter(|tag| !tag.is_empty())
            .into_iter()
            .collect(),
        content_type,
        limit,
        after,
    };
    call(&life, async |running| {
        let found = running.files.search(request).await?;
        let cost = found.cost;
        Ok(Json(FoundView {
            files: found.files.into_iter().map(FileView::from).collect(),
            next: found.next.map(|key| key.to_string()),
            cost: CostView {
                peers: cost.peers,
                messages: cost.messages,
                shards: cost.shards,
            },
        })
        .into_response())
    })
    .await
}
