//! What is seen of a batch, and what a replica that lags may show.

use super::tests::{ALL, append, created, op, part, read, verdict};
use crate::history::{Call, Outcome};

#[test]
fn half_of_a_batch_does_not_pass() {
    let batch = op(
        3,
        4,
        Call::Append {
            messages: vec![1, 2],
            producer: None,
        },
        Outcome::Appended { end: 20 },
    );
    let whole = [created(), batch.clone(), read(5, 6, ALL, &[1, 2])];
    verdict(&whole).expect("the whole batch is there");
    verdict(&[created(), batch.clone(), read(3, 4, ALL, &[1])]).expect_err("half of it");
    verdict(&[created(), batch, part(5, 6, ALL, &[1])]).expect("a read may end inside of it");
}

#[test]
fn a_replica_that_lags_may_say_up_to_date_to_a_live_reader_only() {
    let mut live = read(7, 8, ALL, &[1]);
    live.call = Call::Read {
        from: ALL,
        exact: false,
    };
    let mut operations = vec![created(), append(3, 4, 1, 10), append(5, 6, 2, 20), live];
    verdict(&operations).expect("it showed what was there");
    operations.push(read(7, 8, ALL, &[1]));
    verdict(&operations).expect_err("a plain read is about now");
}
