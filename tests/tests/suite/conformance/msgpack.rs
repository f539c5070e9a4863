//! Just enough of `MessagePack` to leave numbers out of a comparison.

use std::fmt::Write as _;

/// A delivery's bytes with its `MessagePack`, if that is what it ends in, written out with `n` for each number.
///
/// The names in front, the kind and number of an RPC answer and anything else are written as they are.
pub(super) fn without_numbers(frame: &[u8]) -> String {
    let at =
        (6..frame.len()).find(|at| matches!(frame[*at], 0x80..=0x9F) && written(&frame[*at..]).is_some());
    let (head, body) = frame.split_at(at.unwrap_or(frame.len()));
    // The length of the frame depends on the numbers.
    let head: String = head.iter().enumerate().filter(|(at, _)| !(1..5).contains(at)).fold(
        String::new(),
        |mut text, (_, byte)| {
            write!(text, "{byte:02x}").expect("a string can be written");
            text
        },
    );
    head + " " + &written(body).unwrap_or_default()
}

/// The one value that `bytes` are, if they are just one.
fn written(bytes: &[u8]) -> Option<String> {
    let mut text = String::new();
    let rest = value(bytes, &mut text)?;
    rest.is_empty().then_some(text)
}

fn value<'a>(bytes: &'a [u8], text: &mut String) -> Option<&'a [u8]> {
    let (&kind, rest) = bytes.split_first()?;
    let number = |rest: &'a [u8], size: usize, text: &mut String| {
        text.push('n');
        rest.get(size..)
    };
    match kind {
        0x00..=0x7F | 0xE0..=0xFF => number(rest, 0, text),
        0x80..=0x8F => items(rest, usize::from(kind & 0x0F) * 2, text),
        0x90..=0x9F => items(rest, usize::from(kind & 0x0F), text),
        0xA0..=0xBF => string(rest, usize::from(kind & 0x1F), text),
        0xC0 => {
            text.push_str("nil");
            Some(rest)
        }
        0xC2 | 0xC3 => {
            text.push_str(if kind == 0xC3 { "true" } else { "false" });
            Some(rest)
        }
        0xCC | 0xD0 => number(rest, 1, text),
        0xCD | 0xD1 => number(rest, 2, text),
        0xCE | 0xD2 => number(rest, 4, text),
        0xCF | 0xD3 => number(rest, 8, text),
        0xD9 => string(rest.get(1..)?, usize::from(*rest.first()?), text),
        0xDC => items(rest.get(2..)?, usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), text),
        _ => None,
    }
}

fn items<'a>(mut rest: &'a [u8], count: usize, text: &mut String) -> Option<&'a [u8]> {
    text.push('[');
    for _ in 0..count {
        rest = value(rest, text)?;
        text.push(' ');
    }
    text.push(']');
    Some(rest)
}

fn string<'a>(rest: &'a [u8], length: usize, text: &mut String) -> Option<&'a [u8]> {
    let (string, rest) = rest.split_at_checked(length)?;
    write!(text, "{:?}", std::str::from_utf8(string).ok()?).ok()?;
    Some(rest)
}
