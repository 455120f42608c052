//! From a plan to its bytes: what is hot is there, what is in a local pack or in the cold store is read and verified, what
//! a fork inherited is asked of the source's group.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use storage::pack::ChunkLocation;

use super::Core;
use crate::ops::metrics::add;
use crate::protocol::{Op, Outcome, Piece, ReadPlan, Refusal, Request};

impl Core {
    /// Fetches a plan's bytes in order.
    pub(super) async fn materialize_plan(
        self: &Rc<Self>,
        plan: &ReadPlan,
    ) -> Result<Vec<Bytes>, Refusal> {
        let late = async {
            let timeout_ms = self.config.cold_read_timeout_ms;
            self.sleep(Duration::from_millis(timeout_ms)).await;
            log::warn!("event=read_gave_up after_ms={timeout_ms} old data does not come");
            add(&self.metrics.plain.cold_read_failures_total, 1);
            Err(Refusal::Unavailable)
        };
        // What is under way to the cache goes on, so that who comes back finds it.
        let bytes = futures_lite::FutureExt::or(self.materialize_pieces(&plan.pieces), late);
        let bytes = bytes.await?;
        // Who reads history reads on.
        self.begin_ahead(&plan.ahead);
        Ok(bytes)
    }

    /// The bytes of pieces in order.
    pub(super) async fn materialize_pieces(
        self: &Rc<Self>,
        pieces: &[Piece],
    ) -> Result<Vec<Bytes>, Refusal> {
        let mut bytes = Vec::with_capacity(pieces.len());
        self.begin_cold(pieces);
        // Depth first, without recursion: a fork of a fork puts its source's pieces in front.
        let mut todo: Vec<Piece> = pieces.iter().rev().cloned().collect();
        while let Some(piece) = todo.pop() {
            match piece {
                Piece::Hot(hot) => bytes.push(hot),
                Piece::Cold {
                    chunk,
                    group,
                    from,
                    to,
                } => {
                    let Some(disk) = &self.disk else {
                        return Err(Refusal::DataDamaged);
                    };
                    let path = super::checkpoint::pack_path(&disk.dir, group, chunk.pack);
                    let location = ChunkLocation {
                        position: chunk.position,
                        length: chunk.length,
                        crc32c: chunk.crc32c,
                    };
                    match disk.packs.read(&path, location).await {
                        Ok(Some(whole)) => bytes.push(whole.slice(from as usize..to as usize)),
                        Ok(None) => {
                            // Its last stream was deleted, or a fetched checkpoint has its streams elsewhere: a new plan
                            // finds out.
                            log::warn!("event=plan_outdated path={:?}", path.display());
                            self.look_for_pack(group, chunk.pack, path).await;
                            return Err(Refusal::Unavailable);
                        }
                        Err(error) => {
                            log::error!("event=read_failed {error}");
                            return Err(self.found_damaged_pack(group, chunk.pack, Some(error)));
                        }
                    }
                }
                Piece::Stored {
                    chunk,
                    group,
                    pack,
                    from,
                    to,
                } => {
                    let whole = self.cold_chunk(group, pack, &chunk).await?;
                    bytes.push(whole.slice(from as usize..to as usize));
                }
                Piece::Inherited {
                    source,
                    incarnation,
                    from,
                    to,
                } => {
                    let request = Request::on_key(
                        source,
                        Op::ReadInherited {
                            incarnation,
                            from,
                            to,
                        },
                    );
                    match self.ask(request).await {
                        Outcome::Read(inherited) => {
                            self.begin_cold(&inherited.pieces);
                            todo.extend(inherited.pieces.into_iter().rev());
                        }
                        Outcome::Refused(refusal @ Refusal::OffsetExpired { .. }) => {
                            return Err(refusal);
                        }
                        Outcome::Refused(Refusal::Unavailable) => return Err(Refusal::Unavailable),
                        outcome => {
                            log::error!("event=inherited_bytes_missing {outcome:?}");
                            return Err(Refusal::DataDamaged);
                        }
                    }
                }
            }
        }
        Ok(bytes)
    }
}
