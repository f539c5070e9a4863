//! Bodies of what was shown last: whoever polls an unchanged resource costs a comparison, not a serialization.

use std::{
    any::Any,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;

/// One body for each resource. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages(Arc<Mutex<HashMap<&'static str, Known>>>);

#[derive(Debug)]
struct Known {
    /// What it was made of; held, so that nothing else has its address.
    of: Arc<dyn Any + Send + Sync>,
    page: Page,
}

/// A body and its tag.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) tag: u64,
    pub(super) body: Bytes,
}

impl Page {
    /// The value as JSON; the tag is of `stable` or of the text.
    pub(super) fn of(value: &impl Serialize, stable: Option<u64>) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(value)?;
        let tag = stable.unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            body.hash(&mut hasher);
            hasher.finish()
        });
        Ok(Self { tag, body: body.into() })
    }
}

impl Pages {
    /// The page of `value`, the present state of the resource `name`; made if that is another one than last time.
    pub(super) fn page<T>(
        &self,
        name: &'static str,
        value: Arc<T>,
        stable: impl FnOnce(&T) -> Option<u64>,
    ) -> Result<Page, serde_json::Error>
    where
        T: Serialize + Send + Sync + 'static,
    {
        // Held while one is made: who asks at the same time would make the same.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &&Known| std::ptr::addr_eq(Arc::as_ptr(&known.of), Arc::as_ptr(&value));
        if let Some(known) = known.get(name).filter(same) {
            return Ok(known.page.clone());
        }
        let page = Page::of(&*value, stable(&value))?;
        known.insert(name, Known { of: value, page: page.clone() });
        drop(known);
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde::Serializer;

    use super::*;

    /// Counts how often it is written.
    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Serialize for Counted {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u64(self.0.fetch_add(1, Ordering::Relaxed) as u64)
        }
    }

    #[test]
    fn a_state_is_written_once_however_often_it_is_shown() {
        let pages = Pages::default();
        let show = |value: &Arc<Counted>| pages.page("a", Arc::clone(value), |_| None).unwrap();
        let (first, second) = (Arc::new(Counted::default()), Arc::new(Counted(7.into())));
        let bodies = [show(&first), show(&first), show(&second), show(&second)].map(|page| page.body);
        assert_eq!(bodies, ["0", "0", "7", "7"]);
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 8));
        let other = pages.page("b", second, |_| Some(3)).unwrap();
        assert_eq!((other.tag, &other.body[..]), (3, &b"8"[..]), "another resource");
    }
}
