//! What is checked of each entry.

use super::*;

impl Audit {
    pub(super) fn take(&mut self, entry: &Entry, stated: Option<Hash>) {
        let position = entry.position;
        if position <= self.seen {
            let what = match self.recent.iter().any(|(_, chain)| chain.position == position) {
                true => format!("position {position} stands a second time, behind {}", self.seen),
                false => format!("position {position} stands behind {}", self.seen),
            };
            return self.problem(Fault::OutOfOrder, position, position, what);
        }
        let missing = position != self.seen.next();
        if missing {
            self.missing(self.seen.next(), position.previous(), stated.is_some());
        }
        self.seen = position;
        self.summary.seen += 1;
        let leaf = entry.leaf();
        if self.leaves.remove(&position).is_some_and(|kept| kept != leaf) {
            let what = format!("what stands at position {position} is not what was kept");
            self.problem(Fault::Altered, position, position, what);
        }
        self.kept_gaps.retain(|(_, last)| position <= *last);
        if self.kept_gaps.iter().any(|(first, _)| *first <= position) {
            let what = format!("something stands at position {position}, where nothing stood in what was kept");
            self.problem(Fault::Altered, position, position, what);
        }
        self.truth.link(position, &leaf);
        self.expected.link(position, &leaf);
        self.stated.link(position, &leaf);
        if let Some(stated) = stated.filter(|stated| *stated != self.stated.hash) {
            self.misfits.push(Misfit { position, is_told: missing });
            (self.stated.hash, self.expected.hash) = (stated, stated);
            self.broken = true;
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((leaf, self.expected));
        match &entry.content {
            Content::Event(event) => self.event(position, event),
            Content::Foreign(foreign) => {
                self.has_content = true;
                let what = format!("what stands at position {position} is no event: {}", foreign.reason);
                self.pending.push(problem(Fault::NoEvent, position, position, what));
            }
        }
        self.compare_heads();
    }

    fn event(&mut self, position: Position, event: &Recorded) {
        self.summary.events += 1;
        if let Payload::Digest(_) = event.payload {
            self.summary.without_data += 1;
            self.without_data_last = position;
            if self.without_data.len() < WITHOUT_DATA_MAX {
                self.without_data.push(position);
            }
        }
        if let Some(cause) = event.metadata.causation_id
            && !self.ids.contains(&cause)
            && self.start() == Position::START
        {
            let what = format!("the cause {cause} of the event at position {position} does not stand before it");
            self.warning(Fault::Cause, position, what);
        }
        if !self.ids.insert(event.id) {
            let what = format!("the event at position {position} has the id {} of another event before it", event.id);
            self.problem(Fault::DuplicateId, position, position, what);
        }
        if let Some(key) = &event.key
            && !self.used_keys.insert((event.aggregate_id.clone(), Hash::of(key.as_str().as_bytes())))
        {
            let what = format!("the event at position {position} has an idempotency key that its aggregate had before");
            self.warning(Fault::DuplicateKey, position, what);
        }
        let category = Category::of(&event.event_type);
        let subject = (event.aggregate_id.clone(), category);
        if let Some(expected) = event.expected {
            let actual = self.tips.get(&subject).copied();
            // Of what stands before the start nothing is known, nor of what is missing.
            let holds = actual.map_or(expected <= self.start(), |actual| actual == expected)
                || actual.is_none_or(|actual| actual < expected) && self.is_missing(expected);
            if !holds {
                let actual = actual.unwrap_or(self.start());
                let what = format!(
                    "the event at position {position} was to stand behind {expected} in its aggregate and category, which has {actual}"
                );
                self.problem(Fault::Fence, position, position, what);
            }
        }
        self.tips.insert(subject, position);
        match event.aggregate_id.as_str() == LOG_AGGREGATE && event.event_type.as_str() == "LogCheckpointed" {
            true => self.checkpoint(position, &event.payload),
            false => self.has_content = true,
        }
    }

    /// A checkpoint that stands at `position`.
    fn checkpoint(&mut self, position: Position, payload: &Payload) {
        let Payload::Bytes(json) = payload else {
            return self.warning(Fault::Checkpoint, position, format!("the checkpoint at position {position} was taken out"));
        };
        let read = serde_json::from_slice::<LogCheckpointed>(json).map_err(|error| error.to_string());
        let checkpoint = match read.and_then(|data| Checkpoint::read(&data).map_err(|invalid| invalid.to_string())) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                let what = format!("the checkpoint at position {position} cannot be read: {error}");
                return self.problem(Fault::Checkpoint, position, position, what);
            }
        };
        let key = self.keys.iter().find(|key| key.id() == checkpoint.key_id);
        let signed = match key {
            Some(key) if key.has_signed(&checkpoint) => true,
            Some(_) => {
                let what = format!("the signature of the checkpoint at position {position} is not of its key");
                return self.problem(Fault::Signature, position, position, what);
            }
            None if self.keys.is_empty() => false,
            None => {
                let what =
                    format!("the checkpoint at position {position} is signed by another key, {}", short(&checkpoint.key_id));
                return self.warning(Fault::Signature, position, what);
            }
        };
        self.compare(position, &checkpoint, signed);
    }

    fn compare(&mut self, position: Position, checkpoint: &Checkpoint, signed: bool) {
        let vouched = checkpoint.chain.position;
        if position <= vouched {
            let what = format!("the checkpoint at position {position} vouches for position {vouched}, which is not before it");
            return self.problem(Fault::Checkpoint, position, position, what);
        }
        if vouched < self.start() {
            return;
        }
        // The last entry that it takes account of.
        let at = self.recent.partition_point(|(_, chain)| chain.position <= vouched).checked_sub(1);
        let found = at.and_then(|at| self.recent.get(at)).map(|(_, chain)| *chain);
        // What was set right has the right hash, and not the right count and first entry.
        let agrees = |chain: Chain| match !self.broken {
            true => chain == checkpoint.chain,
            false => chain.head() == checkpoint.chain.head(),
        };
        if found.is_some_and(agrees) {
            match self.misfits.iter().rev().find(|misfit| misfit.position <= vouched).map(|misfit| misfit.position) {
                Some(last) => self.doubt(position, checkpoint, last),
                None => {
                    self.summary.checkpoints += 1;
                    self.summary.signed += u64::from(signed);
                }
            }
            self.compared = self.compared.max(vouched);
            if signed && !self.broken {
                self.vouch(vouched, checkpoint.chain.entries);
            }
            return self.settle(vouched, Severity::Warning);
        }
        if at.is_none() {
            // Possible where signing came late. It proves nothing then, and the next one vouches for the same.
            let what =
                format!("the checkpoint at position {position} vouches for position {vouched}, too far back to be compared");
            return self.warning(Fault::Checkpoint, position, what);
        }
        if self.gaps.iter().any(|gap| gap.is_taken_out && (gap.first..=gap.last).contains(&vouched)) {
            // That line is named already, and its hash is not there to compare. The next checkpoint vouches for the rest.
            self.doubt(position, checkpoint, vouched);
            self.compared = self.compared.max(vouched);
            return;
        }
        self.settle(vouched, Severity::Problem);
        self.find_altered(checkpoint);
        self.tell_misfits(vouched, |position| !checkpoint.marks.cover(position));
        let first = self.compared.next();
        let what = format!(
            "positions {first} to {vouched} are not what the checkpoint at position {position} vouches for: something was \
             altered, removed or put in"
        );
        self.problem(Fault::Checkpoint, first.min(vouched), vouched, what);
        self.compared = self.compared.max(vouched);
        self.begin_again_at(checkpoint);
    }

    /// A checkpoint cannot agree with what stands up to `last`, since the hash there was only stated, or is missing: of that its marks
    /// tell.
    fn doubt(&mut self, position: Position, checkpoint: &Checkpoint, last: Position) {
        self.settle_by(last, |finding| match finding.fault == Fault::NoEvent && checkpoint.marks.cover(finding.position) {
            true => Severity::Warning,
            false => Severity::Problem,
        });
        // Marks are of positions in a row: something stood at each.
        let is_missing = |gap: &Gap| self.compared < gap.first && gap.first <= last && checkpoint.marks.cover(gap.first);
        let found = self.gaps.iter().any(is_missing) | self.find_altered(checkpoint);
        self.tell_misfits(last, |misfit| !found || !checkpoint.marks.cover(misfit));
        let first = self.compared.next();
        if first <= last && !checkpoint.marks.cover(first) {
            let what = format!(
                "positions {first} to {last} may not be what the checkpoint at position {position} vouches for: their hashes may \
                 have been made anew"
            );
            self.problem(Fault::Checkpoint, first, last, what);
        }
    }

    /// Names those up to here that are not told yet and of which nothing better is known.
    pub(super) fn tell_misfits(&mut self, up_to: Position, unknown: impl Fn(Position) -> bool) {
        let (told, open): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.misfits).into_iter().partition(|misfit| misfit.position <= up_to);
        self.misfits = open;
        for Misfit { position, .. } in told.into_iter().filter(|misfit| !misfit.is_told && unknown(misfit.position)) {
            let what = format!(
                "the hash at position {position} does not fit: what stands there is not what the export was made of, or something \
                 before it is not, of which the hashes were made anew"
            );
            self.problem(Fault::Altered, position, position, what);
        }
    }

    /// Names what is not what the checkpoint's marks are of, as far as they go back, and says whether there is any.
    fn find_altered(&mut self, checkpoint: &Checkpoint) -> bool {
        let differ = |(leaf, chain): &&(Hash, Chain)| checkpoint.marks.differ(chain.position, leaf);
        let behind_start = self.recent.iter().filter(|(_, chain)| self.start() < chain.position);
        let altered: Vec<Position> = behind_start.filter(differ).map(|(_, chain)| chain.position).collect();
        for run in altered.chunk_by(|one, next| one.next() == *next) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                let what = match first == last {
                    true => format!("what stands at position {first} is not what the checkpoint took account of"),
                    false => format!("what stands at positions {first} to {last} is not what the checkpoint took account of"),
                };
                self.problem(Fault::Altered, *first, *last, what);
            }
        }
        !altered.is_empty()
    }

    /// Whether nothing stands there. Gaps are found in their order.
    fn is_missing(&self, position: Position) -> bool {
        let at = self.gaps.partition_point(|gap| gap.last < position);
        self.gaps.get(at).is_some_and(|gap| gap.first <= position)
    }

    fn vouch(&mut self, position: Position, entries: u64) {
        if self.summary.vouched < position {
            (self.summary.vouched, self.vouched_entries) = (position, entries);
        }
    }

    /// What stands behind the checkpoint is judged by the checkpoint's own hash.
    fn begin_again_at(&mut self, checkpoint: &Checkpoint) {
        let mut chain = checkpoint.chain;
        for (leaf, known) in &mut self.recent {
            if known.position <= checkpoint.chain.position {
                continue;
            }
            chain.link(known.position, leaf);
            *known = chain;
        }
        self.expected = chain;
        self.broken = true;
    }

    pub(super) fn compare_heads(&mut self) {
        let Some(kept) = self.heads.remove(&self.seen) else { return };
        let position = self.seen;
        if kept.iter().all(|hash| *hash == self.truth.hash) {
            self.compared = self.compared.max(position);
            self.vouch(position, self.truth.entries);
            return self.settle(position, Severity::Warning);
        }
        let first = self.compared.next().min(position);
        let what = format!("positions {first} to {position} are not what the kept head at {position} was made of");
        self.problem(Fault::KeptHead, first, position, what);
    }

    /// Nothing stands there; `in_export` if a line of an export says so.
    fn missing(&mut self, first: Position, last: Position, in_export: bool) {
        let what = match first == last {
            true => format!("position {first} is missing"),
            false => format!("positions {first} to {last} are missing"),
        };
        self.gaps.push(Gap { first, last, is_taken_out: in_export });
        let was_kept = self.leaves.range(first..=last).next().is_some();
        match in_export || was_kept {
            // An export names its gaps: a line was taken out. And what was kept did stand there.
            true => self.problem(Fault::Missing, first, last, what),
            false => self.pending.push(problem(Fault::Missing, first, last, what)),
        }
    }

    pub(super) fn gap(&mut self, first: Position, last: Position) {
        if first != self.seen.next() || last < first {
            let what = format!("a gap from {first} to {last} is told behind position {}", self.seen);
            return self.problem(Fault::OutOfOrder, first, last, what);
        }
        self.seen = last;
        self.missing(first, last, false);
    }

    pub(super) fn end(&mut self, chain: &Chain) {
        self.ended = true;
        let position = self.seen.next();
        // What was set right has the right hash, and not the right count.
        let same_rest = self.broken || (self.stated.entries, self.stated.log) == (chain.entries, chain.log);
        if self.stated.head() != chain.head() || !same_rest {
            let what = match chain.position == self.stated.position {
                true => format!("the lines up to position {} are not those that the export was made of", chain.position),
                false => {
                    format!("the export says that it ends at position {}, and ends at {}", chain.position, self.stated.position)
                }
            };
            self.problem(Fault::CutOff, position, position, what);
        }
    }

    pub(super) fn say_what_was_not_seen(&mut self) {
        let start = self.start();
        if start != Position::START && !self.start_is_kept {
            let what = format!("positions 1 to {start} are not in the export: nothing of them was checked");
            let finding = problem(Fault::Unseen, Position::START.next(), start, what);
            self.push(Finding { severity: Severity::Warning, ..finding });
        }
    }

    /// No deed by itself, and nobody shall take what is not there for seen: whoever hands over an export can blank any event.
    pub(super) fn say_what_has_no_data(&mut self) {
        let Some(&first) = self.without_data.first() else { return };
        let (count, last) = (self.summary.without_data, self.without_data_last);
        let named: Vec<String> = self.without_data.iter().map(Position::to_string).collect();
        let have = if count == 1 { "event has its" } else { "events have their" };
        let at = if count == 1 { "position" } else { "positions" };
        let more = match count - named.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let what = format!("{count} {have} data taken out, of which only the digest is left: {at} {}{more}", named.join(", "));
        self.push(Finding { severity: Severity::Warning, ..problem(Fault::WithoutData, first, last, what) });
    }

    /// Whoever rewrote a log would take its checkpoints out, or sign them with another key.
    pub(super) fn say_whether_anybody_vouches(&mut self) {
        let nobody = self.summary.vouched <= self.start();
        if nobody && self.has_content && !self.keys.is_empty() && self.summary.problems == 0 {
            let first = self.start().next();
            let nobody = format!("no checkpoint of a trusted key vouches for any of positions {first} to {}", self.seen);
            let (severity, why) = match self.first_checkpoint {
                FirstCheckpoint::StillToCome => {
                    (Severity::Warning, "the log is younger than its first one, which comes after a minute")
                }
                FirstCheckpoint::Due => (Severity::Problem, "they were taken out, or the first one is still to come"),
            };
            let finding = problem(Fault::Unvouched, first, self.seen, format!("{nobody}: {why}"));
            self.push(Finding { severity, ..finding });
        }
    }

    /// Findings up to here are explained, or not.
    pub(super) fn settle(&mut self, up_to: Position, severity: Severity) {
        self.settle_by(up_to, |_| severity);
    }

    fn settle_by(&mut self, up_to: Position, severity: impl Fn(&Finding) -> Severity) {
        let (settled, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(|f| f.last <= up_to);
        self.pending = open;
        for finding in settled {
            self.push(Finding { severity: severity(&finding), ..finding });
        }
    }

    pub(super) fn problem(&mut self, fault: Fault, first: Position, last: Position, what: String) {
        self.push(problem(fault, first, last, what));
    }

    pub(super) fn warning(&mut self, fault: Fault, position: Position, what: String) {
        self.push(Finding { severity: Severity::Warning, ..problem(fault, position, position, what) });
    }

    fn push(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Problem => self.summary.problems += 1,
            Severity::Warning => self.summary.warnings += 1,
        }
        self.found.push(finding);
    }
}

fn problem(fault: Fault, position: Position, last: Position, what: String) -> Finding {
    Finding { position, last, fault, severity: Severity::Problem, what }
}

/// Anybody's text, for a message.
fn short(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(16).collect()
}
