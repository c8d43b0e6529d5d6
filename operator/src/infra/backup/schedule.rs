//! When a schedule is due, as `cron` and Kubernetes read its five fields. In UTC. Pure.

use k8s_openapi::jiff::civil::{Date, Time};
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{Timestamp, ToSpan};

/// The fields: name, least and greatest value.
const FIELDS: [(&str, u8, u8); 5] = [
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
];
/// Days looked at before a schedule counts as never due: a 29th of February may be eight years away.
const DAYS: u32 = 366 * 9;

/// The values a field allows, as bits.
type Values = u64;

/// A schedule that can be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// As the manifest has it.
    pub text: String,
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
    /// Both days are limited: either is enough.
    either_day: bool,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("has {0} fields instead of 5: minute, hour, day of the month, month, day of the week")]
    Fields(usize),
    #[error("has `{part}` as {field}, which is none of {least}–{greatest}")]
    Value { field: &'static str, part: String, least: u8, greatest: u8 },
    #[error("names a day that never comes")]
    Never,
}

impl Schedule {
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let parts: Vec<_> = text.split(' ').collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(ScheduleError::Fields(parts.len()));
        };
        let read = |n: usize, text: &str| {
            let (field, least, greatest) = FIELDS[n];
            values(text, least, greatest).map_err(|part| ScheduleError::Value {
                field,
                part,
                least,
                greatest,
            })
        };
        let weekdays = read(4, weekday)?;
        let schedule = Self {
            text: text.to_owned(),
            minutes: read(0, minute)?,
            hours: read(1, hour)?,
            days: read(2, day)?,
            months: read(3, month)?,
            // Sunday is 0, and 7 as well.
            weekdays: weekdays | (weekdays >> 7 & 1),
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        // Any day of one whole cycle of leap years will do.
        schedule.next(Timestamp::UNIX_EPOCH).map(|_| schedule.clone()).ok_or(ScheduleError::Never)
    }

    /// The first time after this one.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.to_zoned(TimeZone::UTC).datetime();
        let mut date = start.date();
        for _ in 0..DAYS {
            let later = |time: &Time| date > start.date() || *time > start.time();
            if let Some(time) = self.times(date).find(later) {
                return at(date, time);
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time before this one, or at it.
    pub fn last(&self, until: Timestamp) -> Option<Timestamp> {
        let end = until.to_zoned(TimeZone::UTC).datetime();
        let mut date = end.date();
        for _ in 0..DAYS {
            let earlier = |time: &Time| date < end.date() || *time <= end.time();
            if let Some(time) = self.times(date).filter(earlier).last() {
                return at(date, time);
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    /// Nothing was complete although two were due since: twice the interval, whatever the interval is.
    pub fn overdue(&self, since: Timestamp, now: Timestamp) -> bool {
        let before = |time: Timestamp| time.checked_sub(1.second()).ok().and_then(|time| self.last(time));
        self.last(now).and_then(before).is_some_and(|second| second > since)
    }

    /// The times of a day, in order.
    fn times(&self, date: Date) -> impl Iterator<Item = Time> + '_ {
        let due = self.is_due(date);
        let hours = (0..24_i8).filter(move |hour| due && has(self.hours, *hour));
        hours.flat_map(|hour| {
            let minutes = (0..60_i8).filter(|minute| has(self.minutes, *minute));
            minutes.filter_map(move |minute| Time::new(hour, minute, 0, 0).ok())
        })
    }

    fn is_due(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either_day { day || weekday } else { day && weekday }
    }
}

fn at(date: Date, time: Time) -> Option<Timestamp> {
    date.to_datetime(time).to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn has(values: Values, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| values >> value & 1 == 1)
}

/// The values of one field, or the part of it that is wrong.
fn values(text: &str, least: u8, greatest: u8) -> Result<Values, String> {
    let mut all = 0;
    for part in text.split(',') {
        all |= range(part, least, greatest).ok_or_else(|| part.to_owned())?;
    }
    Ok(all)
}

/// `*`, `5`, `1-5`, each with a step, such as `*/10`. A number with a step counts up to the greatest.
fn range(part: &str, least: u8, greatest: u8) -> Option<Values> {
    let (span, step) = part.split_once('/').map_or((part, None), |(span, step)| (span, Some(step)));
    let step: usize = step.map_or(Some(1), |step| step.parse().ok()).filter(|step| *step > 0)?;
    let number = |text: &str| text.parse::<u8>().ok().filter(|n| (least..=greatest).contains(n));
    let (from, to) = match span.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None if span == "*" => (least, greatest),
        None if part.contains('/') => (number(span)?, greatest),
        None => (number(span)?, number(span)?),
    };
    (from <= to).then(|| (from..=to).step_by(step).fold(0, |all, n| all | 1 << n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn next_and_last() {
        let table = [
            ("30 2 * * *", "2026-03-01T02:30:00Z", "2026-03-02T02:30:00Z", "2026-03-01T02:30:00Z"),
            ("*/20 * * * *", "2026-03-01T02:39:59Z", "2026-03-01T02:40:00Z", "2026-03-01T02:20:00Z"),
            ("0 0 29 2 *", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
            // 2026-03-01 is a Sunday.
            ("0 6 * * 7", "2026-03-02T00:00:00Z", "2026-03-08T06:00:00Z", "2026-03-01T06:00:00Z"),
            ("0 6 * * 0", "2026-03-02T00:00:00Z", "2026-03-08T06:00:00Z", "2026-03-01T06:00:00Z"),
            ("0 6 15 * 1", "2026-03-10T00:00:00Z", "2026-03-15T06:00:00Z", "2026-03-09T06:00:00Z"),
            ("15,45 22-23 1 */6 *", "2026-03-01T00:00:00Z", "2026-07-01T22:15:00Z", "2026-01-01T23:45:00Z"),
            ("5/25 0 * * *", "2026-03-01T00:30:00Z", "2026-03-01T00:55:00Z", "2026-03-01T00:30:00Z"),
        ];
        for (text, now, next, last) in table {
            let schedule = Schedule::parse(text).unwrap();
            assert_eq!(schedule.next(time(now)), Some(time(next)), "next of {text}");
            assert_eq!(schedule.last(time(now)), Some(time(last)), "last of {text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("* * * *", "4 fields"),
            ("60 * * * *", "`60` as minute"),
            ("* 24 * * *", "`24` as hour"),
            ("* * 0 * *", "`0` as day of the month"),
            ("* * * 13 *", "`13` as month"),
            ("* * * * 8", "`8` as day of the week"),
            ("*/0 * * * *", "`*/0` as minute"),
            ("9-5 * * * *", "`9-5` as minute"),
            ("x * * * *", "`x` as minute"),
            ("0 0 31 2 *", "never comes"),
        ] {
            let said = Schedule::parse(text).unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn it_is_overdue_when_two_were_due() {
        let daily = Schedule::parse("0 2 * * *").unwrap();
        let since = time("2026-03-01T02:04:00Z");
        assert!(!daily.overdue(since, time("2026-03-02T02:01:00Z")), "one is due and may run");
        assert!(!daily.overdue(since, time("2026-03-03T01:59:00Z")), "one was missed");
        assert!(daily.overdue(since, time("2026-03-03T02:00:00Z")));
    }
}
