//! The receiving end of an `Exchange` call: who speaks, then what is said, until it ends or falls silent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use futures_lite::{FutureExt, Stream, stream};
use hyper::body::Incoming;
use raftproto::peer::{Envelope, Hello, envelope::Kind};

use super::connection::within;
use super::grpc::{Code, GrpcError};
use super::handshake::{judge, warn_of_clocks};
use super::life::{Answered, Silence};
use super::message::{Encoder, Messages};
use super::parts::Joining;
use super::{PeerEvents, Transport};

/// Nodes whose refusal is remembered.
const REFUSED_MAX: usize = 256;

/// Why nodes were refused the last time, so that a refusal is logged once and not with each attempt.
#[derive(Default)]
pub(super) struct Refused(RefCell<BTreeMap<u64, String>>);

impl Refused {
    fn told(&self, node: u64, text: &str) {
        let mut refused = self.0.borrow_mut();
        if refused.get(&node).is_some_and(|last| last == text) {
            return;
        }
        log::warn!("event=peer_refused node={node} reason={text:?}");
        if refused.len() < REFUSED_MAX || refused.contains_key(&node) {
            refused.insert(node, text.to_owned());
        }
    }

    fn admitted(&self, node: u64) {
        self.0.borrow_mut().remove(&node);
    }
}

enum State<E: PeerEvents> {
    Greeting(Messages<Incoming>),
    Listening(Box<Listening<E>>),
    Ended,
}

struct Listening<E: PeerEvents> {
    messages: Messages<Incoming>,
    joining: Joining,
    silence: Silence,
    answered: Answered,
    speaker: Speaker<E>,
}

/// A node that speaks; tells the core when it no longer does, however the call ends.
struct Speaker<E: PeerEvents> {
    transport: Transport<E>,
    hello: Hello,
}

impl<E: PeerEvents> Drop for Speaker<E> {
    fn drop(&mut self) {
        self.transport.events.on_incoming(&self.hello, false);
    }
}

/// The answer: an introduction, then signs of life, and no end unless the call breaks.
pub(super) fn exchange<E: PeerEvents>(
    transport: Transport<E>,
    refused: Rc<Refused>,
    messages: Messages<Incoming>,
) -> impl Stream<Item = Result<Bytes, GrpcError>> {
    stream::unfold(State::Greeting(messages), move |state| {
        let (transport, refused) = (transport.clone(), refused.clone());
        async move {
            match state {
                State::Greeting(mut messages) => {
                    match greet(&transport, &refused, &mut messages).await {
                        Ok((own, hello)) => {
                            transport.events.on_incoming(&hello, true);
                            let beats = &transport.beats;
                            let listening = Listening {
                                joining: Joining::default(),
                                silence: Silence::new(messages.arrived_bytes(), beats),
                                answered: Answered::new(beats),
                                messages,
                                speaker: Speaker { transport, hello },
                            };
                            Some((Ok(own), State::Listening(Box::new(listening))))
                        }
                        Err(error) => Some((Err(error), State::Ended)),
                    }
                }
                State::Listening(mut listening) => match listen(&mut listening).await {
                    Ok(Said::Enough) => {
                        let lives = Encoder::new(None).encode(&Envelope::default());
                        Some((Ok(lives), State::Listening(listening)))
                    }
                    Ok(Said::All) => None,
                    Err(error) => {
                        let node = listening.speaker.hello.node_id;
                        log::debug!("event=peer_call_ended node={node} {error}");
                        Some((Err(error), State::Ended))
                    }
                },
                State::Ended => None,
            }
        }
    })
}

/// The own introduction, framed, and the other's.
async fn greet<E: PeerEvents>(
    transport: &Transport<E>,
    refused: &Refused,
    messages: &mut Messages<Incoming>,
) -> Result<(Bytes, Hello), GrpcError> {
    let first = messages.next::<Envelope>();
    let first = within(transport.settings.silence, "the introduction", first).await?;
    let Some(Kind::Hello(hello)) = first.and_then(|envelope| envelope.kind) else {
        return Err(GrpcError::new(
            Code::InvalidArgument,
            "the call does not begin with an introduction",
        ));
    };
    let own = transport.events.hello();
    let verdict = match judge(&own, &hello, None) {
        Ok(()) => transport.events.admit(&hello).await,
        differs => differs,
    };
    if let Err(text) = verdict {
        refused.told(hello.node_id, &text);
        return Err(GrpcError::new(Code::FailedPrecondition, text));
    }
    refused.admitted(hello.node_id);
    warn_of_clocks(&own, &hello);
    let own = Envelope {
        kind: Some(Kind::Hello(own)),
    };
    Ok((Encoder::new(None).encode(&own), hello))
}

/// Why a listener stops for now.
enum Said {
    /// An answer is due.
    Enough,
    /// The call has ended.
    All,
}

async fn listen<E: PeerEvents>(listening: &mut Listening<E>) -> Result<Said, GrpcError> {
    let Listening {
        messages,
        joining,
        silence,
        answered,
        speaker,
    } = listening;
    let transport = &speaker.transport;
    let node = speaker.hello.node_id;
    let bytes_max = transport.settings.message_bytes_max;
    let read = async {
        while let Some(envelope) = messages.next::<Envelope>().await? {
            let whole = match envelope.kind {
                Some(Kind::Part(part)) => joining.take(&part, bytes_max)?,
                kind => Some(Envelope { kind }),
            };
            match whole.and_then(|envelope| envelope.kind) {
                Some(Kind::Batch(batch)) => transport.events.on_batch(node, batch),
                Some(Kind::Part(_)) => {
                    let text = "a part that is made of parts";
                    return Err(GrpcError::new(Code::InvalidArgument, text));
                }
                // A slice, not the last; or a kind of a later version.
                None => {}
                Some(Kind::Hello(_)) => {
                    return Err(GrpcError::new(
                        Code::InvalidArgument,
                        "a second introduction",
                    ));
                }
            }
            if answered.is_due_again(&transport.beats) {
                return Ok(Said::Enough);
            }
            glommio::yield_if_needed().await;
        }
        Ok(Said::All)
    };
    let stopped = async {
        transport.stop.beyond(0).await;
        Err(GrpcError::new(Code::Unavailable, "the node stops"))
    };
    let silent = async {
        silence.falls(&transport.beats).await;
        let text = format!(
            "nothing came for {} ms",
            transport.settings.silence.as_millis()
        );
        log::warn!("event=peer_silent node={node} {text}");
        Err(GrpcError::new(Code::DeadlineExceeded, text))
    };
    read.or(silent).or(stopped).await
}
