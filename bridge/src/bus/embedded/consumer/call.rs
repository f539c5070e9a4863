//! The call itself: what a consumer is sent, and what its answer says. `docs/confirm.md` is the contract.

use std::convert::Infallible;

use bytes::Bytes;
use rmp::encode::{
    ByteBuf, ValueWriteError, write_array_len, write_bin, write_map_len, write_nil, write_str, write_uint,
};

use crate::{
    bus::{
        embedded::{
            broker::Frame,
            consumer::{Item, METHOD},
        },
        rpc::Rpc,
    },
    native::codec::server::Kind,
    topic::Topic,
};

/// Most characters kept of what a consumer says about an error.
const WORDS: usize = 200;

/// The request with which a consumer is called; `items` are of one port, and of one stream.
pub(super) fn request<'a>(id: u32, items: impl Iterator<Item = &'a Item> + Clone) -> Bytes {
    let mut params = ByteBuf::new();
    match parameters(&mut params, items) {
        Ok(()) => Rpc::Request { id, method: METHOD.into(), params: params.into_vec().into() }.encode(),
        Err(ValueWriteError::InvalidDataWrite(never) | ValueWriteError::InvalidMarkerWrite(never)) => {
            match never {}
        }
    }
}

/// Appends the parameters: a map of `stream`, `collector`, `topics` and `events`.
fn parameters<'a>(
    into: &mut ByteBuf,
    items: impl Iterator<Item = &'a Item> + Clone,
) -> Result<(), ValueWriteError<Infallible>> {
    let first = items.clone().next();
    let numbers = first.and_then(|item| item.batch.events.numbers.as_ref());
    let (topics, count) = list(items.clone());
    write_map_len(into, 4)?;
    write_str(into, "stream")?;
    match numbers {
        Some(numbers) => write_str(into, &numbers.stream.to_string())?,
        None => nil(into)?,
    }
    write_str(into, "collector")?;
    write_str(into, first.map_or("", |item| &item.collector))?;
    write_str(into, "topics")?;
    write_array_len(into, length(topics.len()))?;
    for topic in &topics {
        write_str(into, topic.slashed())?;
    }
    write_str(into, "events")?;
    write_array_len(into, length(count))?;
    for item in items {
        let events = &item.batch.events;
        let place = |topic: &Topic| topics.iter().position(|known| *known == topic).unwrap_or_default();
        let places: Vec<usize> = events.topics.iter().map(place).collect();
        for (nth, event) in item.events() {
            let seq = events.numbers.as_ref().and_then(|numbers| numbers.seqs.get(nth));
            let topic = usize::try_from(event.topic).ok().and_then(|topic| places.get(topic));
            write_array_len(into, 4)?;
            match seq {
                Some(seq) => drop(write_uint(into, *seq)?),
                None => nil(into)?,
            }
            write_uint(into, topic.map_or(0, |place| *place as u64))?;
            write_uint(into, event.time)?;
            write_bin(into, &event.payload)?;
        }
    }
    Ok(())
}

/// The topics that the consumer is to see, each once, and how many events.
fn list<'a>(items: impl Iterator<Item = &'a Item>) -> (Vec<&'a Topic>, usize) {
    let (mut topics, mut count) = (Vec::new(), 0);
    for item in items {
        count += item.events().count();
        for (topic, mine) in item.batch.events.topics.iter().zip(&item.mine) {
            if *mine && !topics.contains(&topic) {
                topics.push(topic);
            }
        }
    }
    (topics, count)
}

fn nil(into: &mut ByteBuf) -> Result<(), ValueWriteError<Infallible>> {
    write_nil(into).map_err(ValueWriteError::InvalidMarkerWrite)
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// What a consumer answered to a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Which call.
    pub(super) id: u32,
    /// Whether it has taken the batch; else why not, for people.
    pub(super) taken: Result<(), String>,
}

/// Reads an answer; anything else that was sent to us is none.
pub(super) fn answer(frame: &Frame) -> Option<Answer> {
    if frame.kind() != Some(Kind::Message) {
        return None;
    }
    // A client in this process may have put the first bytes into a header of their own.
    let header = frame.header().unwrap_or_default();
    read(&[header, frame.payload()].concat().into())
}

fn read(payload: &Bytes) -> Option<Answer> {
    match Rpc::decode(payload).ok()? {
        Rpc::Reply { id, .. } => Some(Answer { id, taken: Ok(()) }),
        Rpc::Error { id, code, message } => {
            let words: String = String::from_utf8_lossy(&message).escape_debug().take(WORDS).collect();
            let why = if words.is_empty() { format!("code {code}") } else { format!("code {code}, {words}") };
            Some(Answer { id, taken: Err(why) })
        }
        Rpc::Notification(_) | Rpc::Request { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_taken_or_why_not() {
        let reply = Rpc::Reply { id: 7, result: Bytes::from_static(b"whatever") }.encode();
        assert_eq!(read(&reply), Some(Answer { id: 7, taken: Ok(()) }));
        let why = "code -32603, disk\\nfull".to_owned();
        assert_eq!(
            read(&Rpc::failure(264, -32603, "disk\nfull").encode()),
            Some(Answer { id: 264, taken: Err(why) })
        );
        let long = read(&Rpc::failure(1, 0, &"x".repeat(10_000)).encode()).unwrap();
        assert!(long.taken.unwrap_err().len() < 2 * WORDS);
        let call = Rpc::Request { id: 1, method: "x".into(), params: Bytes::new() }.encode();
        for other in [call, Bytes::new(), Bytes::from_static(&[0x11, 1, 2, 3])] {
            assert_eq!(read(&other), None, "{other:?}");
        }
    }
}
