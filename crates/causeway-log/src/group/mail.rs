//! What a group's dispatcher and members tell each other: core NATS, at most once. The words are the gateway's.

use async_nats::{Message, Subject};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::GroupName;
use crate::{Log, LogError, link};

/// What was sent to one of a group.
pub struct Mail {
    log: Log,
    messages: BoxStream<'static, Message>,
}

/// One message.
pub struct Post {
    /// Its words.
    pub payload: Bytes,
    reply: Option<Subject>,
    log: Log,
}

impl Log {
    /// What is sent to the group's dispatcher.
    pub async fn dispatcher_mail(&self, group: &GroupName) -> Result<Mail, LogError> {
        self.mail(vec![self.inner.names.group_dispatcher(&group.key())]).await
    }

    /// What is sent to one member of the group, or to all.
    pub async fn member_mail(&self, group: &GroupName, member: &str) -> Result<Mail, LogError> {
        let names = &self.inner.names;
        self.mail(vec![names.group_member(&group.key(), member), names.group_members(&group.key())]).await
    }

    /// Tells the group's dispatcher, if there is one.
    pub async fn tell_dispatcher(&self, group: &GroupName, words: Vec<u8>) -> Result<(), LogError> {
        self.send(self.inner.names.group_dispatcher(&group.key()), words).await
    }

    /// Tells one member.
    pub async fn tell_member(&self, group: &GroupName, member: &str, words: Vec<u8>) -> Result<(), LogError> {
        self.send(self.inner.names.group_member(&group.key(), member), words).await
    }

    /// Tells all members.
    pub async fn tell_members(&self, group: &GroupName, words: Vec<u8>) -> Result<(), LogError> {
        self.send(self.inner.names.group_members(&group.key()), words).await
    }

    /// Asks the group's dispatcher. Fails at once when there is none.
    pub async fn ask_dispatcher(&self, group: &GroupName, words: Vec<u8>) -> Result<Bytes, LogError> {
        let subject = self.inner.names.group_dispatcher(&group.key());
        let answer = self.talker()?.request(subject, Bytes::from(words)).await;
        Ok(answer.map_err(LogError::unavailable)?.payload)
    }

    async fn send(&self, subject: String, words: Vec<u8>) -> Result<(), LogError> {
        link::say(&self.talker()?, subject, Bytes::from(words)).await
    }

    async fn mail(&self, subjects: Vec<String>) -> Result<Mail, LogError> {
        Ok(Mail { log: self.clone(), messages: self.listen(subjects).await? })
    }
}

impl Mail {
    /// The next message. Cancel-safe. What is said during an outage is missed.
    pub async fn next(&mut self) -> Post {
        match self.messages.next().await {
            Some(message) => Post { payload: message.payload, reply: message.reply, log: self.log.clone() },
            None => std::future::pending().await,
        }
    }
}

impl Post {
    /// Answers whoever asked.
    pub async fn answer(&self, words: Vec<u8>) {
        if let Some(reply) = &self.reply
            && let Err(error) = link::say(&self.log.inner.talking.client(), reply.clone(), Bytes::from(words)).await
        {
            tracing::debug!(%error, "an answer was not sent");
        }
    }
}
