//! The body of an answer: the handler's, until the connection is cut; then a status.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use crate::session::http2::{cut::Cut, service::Open};

/// A handler's answer that ends when its connection is cut, in trailers that say why.
#[derive(Debug)]
pub(super) struct Answer {
    body: tonic::body::Body,
    cut: Cut,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Dropped when the last frame was handed over.
    open: Option<Open>,
}

impl Answer {
    pub(super) fn new(body: tonic::body::Body, cut: Cut, open: Open) -> Self {
        let cancelled = Box::pin(cut.cancelled());
        // A refusal is all headers: hyper does not ask for a body that has ended already.
        let open = (!body.is_end_stream()).then_some(open);
        Self { body, cut, cancelled, open }
    }

    fn last_words(&self) -> Frame<Bytes> {
        let mut trailers = HeaderMap::with_capacity(2);
        // The message is ours and has nothing in it that a header cannot carry.
        drop(self.cut.reason().status().add_header(&mut trailers));
        Frame::trailers(trailers)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.open.is_none() {
            return Poll::Ready(None);
        }
        if self.cancelled.as_mut().poll(cx).is_ready() {
            self.open = None;
            return Poll::Ready(Some(Ok(self.last_words())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.as_ref().is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers)) {
            self.open = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
