//! A member of a group: between one client's stream and whichever gateway dispatches the group.
//!
//! It announces itself and what it has every second: a dispatcher that just began, or that lost a message, learns all it must know
//! from that. Deliveries name positions only; the event comes from this gateway's own read side. What the client answers is said to
//! the dispatcher until it says that it has understood. What becomes of a delivery meanwhile is decided in `hand.rs`.

mod hand;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_event::{Event, Position};
use causeway_log::{GroupName, Log, LogError, Mail, Post};
use causeway_proto::{Kind, Problem};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::hand::DeliveryId;
use self::hand::{Errand, Hand, Heard};
use super::words::{self, Answer, Reply, ToDispatcher, ToMember};
use crate::gateway::Gateway;
use crate::store::StoreError;

/// How often a member announces itself, at least.
const ANNOUNCE: Duration = Duration::from_secs(1);
/// How often it is looked whose time ran out.
const RUN_OUT: Duration = Duration::from_millis(100);
/// Pause before an answer is said again that was not understood.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// An answer that nobody understood for so long is given up: the event is delivered again.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// What a client answered before it left is said to the end, for as long as this.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// A client that ended its side hears the other out; one that does not within this time is gone.
const HEARS_OUT: Duration = Duration::from_millis(500);
/// How long the dispatcher may take to hear that a member leaves.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Answers that are being said at once; a client whose further ones are not read waits. Twice what a member may work on at once: of
/// each delivery one mark and the answer.
const SAYING_MAX: usize = 2048;
/// Bytes of events that wait for a client to take them: above that no further ones are loaded. And how many are loaded at once.
const UNREAD_BYTES_MAX: usize = 4 << 20;
const LOADING_MAX: usize = 8;
/// A client that has not taken a delivery for this long gets no more for the moment.
const UNREAD_MAX: Duration = Duration::from_secs(1);

/// What a client says.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) id: DeliveryId,
    pub(crate) answer: Answer,
}

/// What a client hears.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Delivery { id: DeliveryId, event: Arc<Event> },
    Heartbeat { pending: u64 },
}

/// One member.
pub(super) struct Member {
    pub(super) gateway: Arc<Gateway>,
    pub(super) group: GroupName,
    pub(super) id: String,
    pub(super) in_flight_max: usize,
    pub(super) ack_wait: Duration,
}

/// What the member has while it is there.
struct Desk {
    member: Member,
    hand: Hand,
    /// Not loaded so far.
    assigned: VecDeque<Errand>,
    /// How many are being loaded.
    loading: usize,
    /// Not taken by the client so far.
    unread: VecDeque<(Instant, Errand, Arc<Event>)>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// How much of the work is saying something to the dispatcher.
    saying: usize,
    /// How many events wait, as it was last known.
    pending: u64,
    /// That these failed by time alone is being said, and can be taken back as long as nobody understood it.
    failing: HashMap<DeliveryId, CancellationToken>,
    /// The client has taken nothing since what it did not take was given back.
    is_stuck: bool,
}

/// How a client ended its stream.
enum End {
    /// It said that it has no more to say: what it did not answer it gives back.
    Orderly,
    /// It is gone, perhaps of what it was given.
    Broke,
}

enum Done {
    Loaded(Errand, Result<Option<Arc<Event>>, Problem>),
    /// The dispatcher was told that the client is still at work.
    Marked(DeliveryId),
    /// It was told what came of it, or nobody understood it for so long that it is given up.
    Answered(DeliveryId),
    /// The same of what is done.
    Acked(DeliveryId),
    /// What was to be said was taken back.
    TakenBack,
    /// How many events wait, as far as that is known.
    Pending(u64),
}

impl Member {
    /// Serves the client until one of the two ends it. The place for the last word is held from the beginning: a client that does
    /// not read finds it when it does, and is not waited for.
    pub(super) async fn serve(
        self,
        mail: Mail,
        said: BoxStream<'static, Result<Said, Problem>>,
        told: mpsc::Sender<Result<Told, Problem>>,
        last_word: OwnedPermit<Result<Told, Problem>>,
    ) {
        let hand = Hand::new(self.ack_wait);
        let mut desk = Desk {
            member: self,
            hand,
            assigned: VecDeque::new(),
            loading: 0,
            unread: VecDeque::new(),
            work: FuturesUnordered::new(),
            saying: 0,
            pending: 0,
            failing: HashMap::new(),
            is_stuck: false,
        };
        let ended = desk.work_until(mail, said, &told).await;
        // Of a group that was deleted nobody understands anything any more.
        if !matches!(&ended, Err(problem) if problem.kind == Kind::NotFound) {
            desk.finish().await;
        }
        // Whoever lets go of both ways at once seems to have ended its own in order, but does not hear the other one out. That the
        // gateway stops is nobody's failure.
        let is_orderly = match ended {
            Ok(End::Orderly) => {
                let nothing_left = desk.hand.given().next().is_none();
                nothing_left || timeout(HEARS_OUT, told.closed()).await.is_err()
            }
            Ok(End::Broke) => false,
            Err(_) => desk.member.gateway.stop.is_cancelled(),
        };
        let broke = desk.hand.given().filter(|_| !is_orderly).map(named).collect();
        let leave = ToDispatcher::Leave { member: desk.member.id.clone(), given: Some(broke) };
        // It must be heard before a dispatcher that has no other members goes.
        let (log, group) = (&desk.member.gateway.log, &desk.member.group);
        if !matches!(timeout(LEAVE_MAX, log.ask_dispatcher(group, words::write(&leave))).await, Ok(Ok(_))) {
            tracing::debug!(%group, "nobody heard that a member left");
        }
        if let Err(problem) = ended {
            last_word.send(Err(problem));
        }
    }
}

impl Desk {
    /// An error is for the client.
    async fn work_until(
        &mut self,
        mut mail: Mail,
        mut said: BoxStream<'static, Result<Said, Problem>>,
        told: &mpsc::Sender<Result<Told, Problem>>,
    ) -> Result<End, Problem> {
        let stop = self.member.gateway.stop.clone();
        let heartbeat = self.member.gateway.config.heartbeat;
        let mut beat_at = Instant::now() + heartbeat;
        let mut announce = interval(ANNOUNCE);
        announce.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut run_out = interval(RUN_OUT);
        run_out.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.load_some();
            tokio::select! {
                () = stop.cancelled() => return Err(Problem::new(Kind::Unavailable, "the gateway is shutting down")),
                () = told.closed() => return Ok(End::Broke),
                said = said.next(), if self.saying < SAYING_MAX => match said {
                    Some(said) => self.hear(said?),
                    None => return Ok(End::Orderly),
                },
                post = mail.next() => self.read(&post).await?,
                Some(done) = self.work.next() => {
                    if let Some(pending) = self.done(done)? {
                        _ = told.try_send(Ok(Told::Heartbeat { pending }));
                    }
                }
                Ok(permit) = told.reserve(), if self.is_stuck || !self.unread.is_empty() => {
                    self.is_stuck = false;
                    if let Some((_, errand, event)) = self.unread.pop_front().filter(|(_, errand, _)| self.hand.wants(*errand)) {
                        let id = errand.id;
                        self.hand.give(errand, Instant::now());
                        permit.send(Ok(Told::Delivery { id, event }));
                        beat_at = Instant::now() + heartbeat;
                    }
                }
                () = sleep_until(beat_at.into()) => {
                    beat_at = Instant::now() + heartbeat;
                    self.ask_pending();
                }
                _ = announce.tick() => self.announce(self.member.in_flight_max).await,
                _ = run_out.tick(), if !self.hand.is_empty() => self.run_out(),
            }
        }
    }

    /// Lets the dispatcher understand what it was told. It gives no more.
    async fn finish(&mut self) {
        self.announce(0).await;
        let finish = async {
            while self.saying > 0
                && let Some(done) = self.work.next().await
            {
                let _ = self.done(done);
            }
        };
        if timeout(FINISH_MAX, finish).await.is_err() {
            tracing::debug!("answers were not understood before the member left; the events are delivered again");
        }
    }

    /// The client said something.
    fn hear(&mut self, Said { id, answer }: Said) {
        match self.hand.hear(id, &answer, Instant::now()) {
            Heard::Say => self.say(id, answer, CancellationToken::new()),
            Heard::SayInstead => {
                if let Some(failing) = self.failing.remove(&id) {
                    failing.cancel();
                }
                self.say(id, answer, CancellationToken::new());
            }
            Heard::Nothing => tracing::debug!(position = %id.position, ?answer, "an answer changes nothing"),
        }
    }

    /// Says it unless it is taken back before it was understood.
    fn say(&mut self, id: DeliveryId, answer: Answer, taken_back: CancellationToken) {
        self.saying += 1;
        let (log, group) = (self.member.gateway.log.clone(), self.member.group.clone());
        let said = say(log, group, self.member.id.clone(), id, answer);
        let said = async move { taken_back.run_until_cancelled(said).await.unwrap_or(Done::TakenBack) };
        self.work.push(said.boxed());
    }

    /// What the client was given is said to have failed, what it did not take goes back.
    fn run_out(&mut self) {
        let out = self.hand.run_out(Instant::now());
        for id in out.failed {
            let taken_back = CancellationToken::new();
            self.failing.insert(id, taken_back.clone());
            let reason = format!("was not answered within {:?}", self.member.ack_wait);
            self.say(id, Answer::Nak { delay_ms: Some(0), reason, unanswered: true }, taken_back);
        }
        if out.went_back > 0 {
            self.is_stuck = true;
            let hand = &self.hand;
            self.unread.retain(|(_, errand, _)| hand.wants(*errand));
        }
    }

    /// The dispatcher said something.
    async fn read(&mut self, post: &Post) -> Result<(), Problem> {
        match words::read(&post.payload) {
            Some(ToMember::Deliver { position, deliveries }) => {
                let id = DeliveryId { position: Position::new(position), deliveries };
                self.assigned.push_back(self.hand.assign(id, Instant::now()));
            }
            Some(ToMember::Call) => self.announce(self.member.in_flight_max).await,
            Some(ToMember::Deleted) => {
                return Err(Problem::new(Kind::NotFound, format!("the group {} was deleted", self.member.group)));
            }
            None => {}
        }
        Ok(())
    }

    /// Loads what the client may take next: what it does not take is not held here.
    fn load_some(&mut self) {
        let bytes = |(_, _, event): &(Instant, Errand, Arc<Event>)| event.data.as_bytes().len();
        while self.loading < LOADING_MAX
            && !self.assigned.is_empty()
            && self.unread.iter().map(bytes).sum::<usize>() < UNREAD_BYTES_MAX
            && let Some(errand) = self.assigned.pop_front()
        {
            if self.hand.wants(errand) {
                self.loading += 1;
                self.work.push(load(self.member.gateway.clone(), errand).boxed());
            }
        }
    }

    fn done(&mut self, done: Done) -> Result<Option<u64>, Problem> {
        if let Done::Loaded(..) = done {
            self.loading -= 1;
        }
        match done {
            Done::Pending(pending) => {
                self.pending = pending;
                return Ok(Some(pending));
            }
            Done::Marked(id) => {
                self.saying -= 1;
                self.hand.marked(id);
            }
            Done::Answered(id) => {
                self.saying -= 1;
                self.failing.remove(&id);
                self.hand.answered(id);
            }
            Done::Acked(id) => {
                self.saying -= 1;
                self.hand.acked(id);
            }
            Done::TakenBack => self.saying -= 1,
            Done::Loaded(errand, _) if !self.hand.wants(errand) => {}
            Done::Loaded(errand, Ok(Some(event))) => self.unread.push_back((Instant::now(), errand, event)),
            // Nothing that anybody could work on stands there.
            Done::Loaded(errand, Ok(None)) => self.hear(Said { id: errand.id, answer: Answer::Ack }),
            Done::Loaded(errand, Err(problem)) => {
                tracing::debug!(error = %problem, position = %errand.id.position, "an event for a member cannot be read yet");
                self.assigned.push_front(errand);
            }
        }
        Ok(None)
    }

    /// Says what is here, and for how much there is room.
    async fn announce(&mut self, room: usize) {
        let now = Instant::now();
        let is_slow = self.unread.front().is_some_and(|(since, ..)| now.duration_since(*since) > UNREAD_MAX);
        let announce = ToDispatcher::Announce {
            member: self.member.id.clone(),
            room: if is_slow || self.is_stuck { 0 } else { room },
            held: self.hand.held().map(named).collect(),
            waiting: self.hand.waiting().map(Position::get).collect(),
        };
        self.tell(&announce).await;
    }

    async fn tell(&mut self, words: &ToDispatcher) {
        if let Err(error) = self.member.gateway.log.tell_dispatcher(&self.member.group, words::write(words)).await {
            tracing::debug!(%error, group = %self.member.group, "a group's dispatcher was not told");
        }
    }

    fn ask_pending(&mut self) {
        let (log, group, known) = (self.member.gateway.log.clone(), self.member.group.clone(), self.pending);
        let ask = async move {
            match log.group(&group).await {
                Ok(Some(state)) => Done::Pending(super::pending(&state, super::in_flight(&log, &group).await)),
                // That the stream lives is worth saying even when the server does not say how much there is.
                Ok(None) | Err(_) => Done::Pending(known),
            }
        };
        self.work.push(ask.boxed());
    }
}

/// As the dispatcher knows it.
fn named(id: DeliveryId) -> (u64, u32) {
    (id.position.get(), id.deliveries)
}

/// The event, in its newest version, once this gateway has it.
async fn load(gateway: Arc<Gateway>, errand: Errand) -> Done {
    let id = errand.id;
    let find = async {
        let store = &gateway.store;
        match store.arrived(id.position, id.position).await {
            Some(mut events) => Ok::<_, StoreError>(events.pop()),
            None => {
                store.wait_for(id.position).await?;
                store.by_position(id.position).await
            }
        }
    };
    let found = gateway.within(find).await;
    if found.is_err() {
        sleep(RETRY_PAUSE).await;
    }
    Done::Loaded(errand, found.map(|event: Option<Arc<Event>>| event.map(|event| gateway.types.show(&event))))
}

/// Says it to whoever dispatches, until it is understood.
async fn say(log: Log, group: GroupName, member: String, id: DeliveryId, answer: Answer) -> Done {
    let (position, deliveries) = named(id);
    let done = match answer {
        Answer::Ack => Done::Acked(id),
        Answer::Progress => Done::Marked(id),
        Answer::Nak { .. } | Answer::Park { .. } => Done::Answered(id),
    };
    let words = words::write(&ToDispatcher::Answer { member, position, deliveries, answer });
    let deadline = Instant::now() + ANSWER_MAX;
    while Instant::now() < deadline {
        match log.ask_dispatcher(&group, words.clone()).await.map(|reply| words::read(&reply)) {
            Ok(Some(Reply::Done | Reply::Stale)) => break,
            Ok(Some(Reply::Later) | None) => {}
            Err(LogError::Unavailable { reason }) => tracing::debug!(%group, reason, "nobody dispatches the group"),
            Err(error) => tracing::debug!(%group, %error, "an answer was not understood"),
        }
        sleep(RETRY_PAUSE).await;
    }
    done
}
