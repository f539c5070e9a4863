//! What a local client may write into names and topics.
//!
//! Ordinary bus clients use their own topics, so this is wider than our grammar. It refuses what harms the broker: depth
//! (its maps recurse, and registering doubles with each dot), characters that cut frames or logs apart, names that pass for
//! the broker's or for a remote collector's.

use crate::{
    bus::{BusName, door::slow::GAP, filter},
    native::codec::Code,
};

pub(super) use crate::bus::filter::NAME;

/// Judges the name that a client claims.
pub(super) fn name(name: &str) -> Result<(), Code> {
    let segments = name.split('.').count();
    let sound = !name.is_empty()
        && name.len() <= NAME
        && segments <= BusName::MAX_SEGMENTS
        && !name.starts_with('.')
        && !name.contains("%%")
        // Masks of broadcasts would take these for wildcards.
        && !name.contains(['*', '?'])
        && !name.contains(char::is_control);
    if !sound {
        return Err(Code::DATA);
    }
    // Remote collectors speak under these names, and the bus itself; nobody here may pass for one of them.
    if matches!(name.split('.').next(), Some("collector" | "daemoneye")) { Err(Code::ACCESS) } else { Ok(()) }
}

/// Judges the topic of something published.
pub(super) fn topic(topic: &str) -> Result<(), Code> {
    sound(filter::is_path(topic))?;
    if topic.split('/').any(|segment| matches!(segment, "+" | "#")) {
        return Err(Code::DATA);
    }
    if topic == GAP || topic.split('/').next() == Some(".broker") { Err(Code::ACCESS) } else { Ok(()) }
}

/// Judges a subscription or exclusion.
pub(super) fn filter(filter: &str) -> Result<(), Code> {
    sound(filter::is_filter(filter))
}

/// Judges the mask of those addressed.
pub(super) fn mask(mask: &str) -> Result<(), Code> {
    sound(filter::is_target(mask))
}

const fn sound(is_sound: bool) -> Result<(), Code> {
    if is_sound { Ok(()) } else { Err(Code::DATA) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass_and_forged_ones_do_not() {
        for good in ["engine", "cli.host.4711", "a.b.c.d", "Détecteur", "worker 1"] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(NAME + 1);
        let deep = "a.".repeat(20) + "a";
        for bad in ["", ".broker", "a.b.c.d.e", "victim%%0", "a\0b", "a\nb", "x.*", "?", &long, &deep] {
            assert_eq!(name(bad), Err(Code::DATA), "{bad:?}");
        }
        for reserved in ["collector", "collector.site-a.procmond-1", "daemoneye.confirm.0"] {
            assert_eq!(name(reserved), Err(Code::ACCESS));
        }
        assert_eq!(name("collectors.x"), Ok(()));
        assert_eq!(name("daemoneye-agent"), Ok(()));
    }

    #[test]
    fn topics_that_harm_the_broker_are_refused() {
        assert_eq!(topic("SENSOR/Temp 1/°C"), Ok(()));
        let deep = "a/".repeat(3500);
        for bad in ["", "a/+", "#", "a\tb", &deep[..40], &deep] {
            assert_eq!(topic(bad), Err(Code::DATA), "{bad:?}");
        }
        assert_eq!(topic(".broker/info"), Err(Code::ACCESS));
        assert_eq!(topic(GAP), Err(Code::ACCESS));
        assert_eq!(filter("a/+/#"), Ok(()));
        assert_eq!(filter(".broker/info"), Ok(()));
        assert_eq!(filter("a/#/b"), Err(Code::DATA));
        assert_eq!(filter(&deep), Err(Code::DATA));
        assert_eq!(mask("engine.*"), Ok(()));
        assert_eq!(mask(&"a.".repeat(40)), Err(Code::DATA));
    }
}
