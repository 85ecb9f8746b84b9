//! What time it is, somewhere.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ToolError;

/// Where to look at the clock.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// The IANA time zone, such as `Europe/Oslo` or `America/New_York`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    zone: String,
}

fn utc() -> String {
    "UTC".to_owned()
}

pub(crate) fn run(arguments: &Arguments, now: Timestamp) -> Result<Value, ToolError> {
    let zone = TimeZone::get(arguments.zone.trim()).map_err(|_| {
        let zone = &arguments.zone;
        ToolError::failed(format!(
            "there is no time zone `{zone}`; give an IANA name such as Europe/Oslo, America/New_York or UTC"
        ))
    })?;
    let here = now.to_zoned(zone);
    // The name as the database writes it, not as the model did.
    let zone = here.time_zone().iana_name().unwrap_or("UTC").to_owned();
    Ok(json!({
        "time": here.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "date": here.strftime("%Y-%m-%d").to_string(),
        "clock": here.strftime("%H:%M").to_string(),
        "weekday": here.strftime("%A").to_string(),
        "iso_week": here.strftime("%G-W%V").to_string(),
        "zone": zone,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str, zone: &str) -> Result<Value, ToolError> {
        run(&Arguments { zone: zone.to_owned() }, time.parse().unwrap())
    }

    #[test]
    fn each_zone_has_its_own_clock() {
        for (time, zone, expected) in [
            ("2026-11-23T10:00:00Z", "UTC", "2026-11-23T10:00:00+00:00"),
            ("2026-11-23T23:30:00Z", "asia/tokyo", "2026-11-24T08:30:00+09:00"),
            ("2026-07-01T10:00:00Z", "America/New_York", "2026-07-01T06:00:00-04:00"),
            ("2026-11-23T10:00:00Z", "Asia/Kathmandu", "2026-11-23T15:45:00+05:45"),
        ] {
            assert_eq!(at(time, zone).unwrap()["time"], expected, "{zone}");
        }
        assert_eq!(at("2026-11-23T23:30:00Z", "asia/tokyo").unwrap()["zone"], "Asia/Tokyo");
    }

    #[test]
    fn the_first_days_of_a_year_may_belong_to_the_last_one_s_week() {
        assert_eq!(at("2027-01-01T10:00:00Z", "UTC").unwrap()["iso_week"], "2026-W53");
    }

    #[test]
    fn no_zone_is_guessed() {
        for zone in ["Atlantis", "../../etc/passwd", "+01:00", "local"] {
            assert!(at("2026-11-23T10:00:00Z", zone).is_err(), "{zone}");
        }
    }
}
