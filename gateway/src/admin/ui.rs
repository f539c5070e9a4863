//! The dashboard: one page, served from the binary, that reads the same API as everybody else.

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::snapshot::Snapshots;

/// The page and what it loads.
pub(super) fn routes() -> Router<Snapshots> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", include_str!("ui/index.html"))))
        .route("/ui.css", get(async || file("text/css; charset=utf-8", include_str!("ui/ui.css"))))
        .route("/ui.js", get(async || file("text/javascript; charset=utf-8", include_str!("ui/ui.js"))))
}

fn file(media: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media)], body).into_response()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_asks_nobody_else_and_builds_no_markup_from_data() {
        let page =
            [include_str!("ui/index.html"), include_str!("ui/ui.css"), include_str!("ui/ui.js")].concat();
        for wrong in
            ["http://", "https://", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("]
        {
            assert!(!page.contains(wrong), "{wrong}");
        }
    }
}
