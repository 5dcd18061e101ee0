// Package fluxnats feeds a [stream.Gate] from NATS: a [Source] from a durable
// pull consumer of JetStream, a [Core] from a subscription without JetStream.
// [stream.Join] feeds one gate from several of them.
//
//	src, err := fluxnats.New(js, fluxnats.Config{Stream: "ORDERS", Consumer: "billing"})
//	...
//	err = gate.Run(ctx, src, func(ctx context.Context, m *fluxnats.Msg) error { ... })
//
// The source asks the server for as many messages as the gate has room for and
// no more, so that no message waits in a client's buffer while its AckWait runs
// out. Every message that it holds, waiting or in a handler, is kept from
// redelivery for as long as that takes. Nothing is let go before its successor,
// a deferred copy or a dead letter, is confirmed by the server.
//
// # Deferrals
//
// A deferred message is published again as a scheduled message of the same
// stream (nats-server 2.12 and later, StreamConfig.AllowMsgSchedules), and the
// original is acknowledged. Deferred messages therefore hold no place in the
// consumer's MaxAckPending, however many there are and however long they wait,
// where a delayed negative acknowledgement would: a tenant with MaxAckPending
// deferred messages would stop all others.
//
// The copy comes back under the subject of the original, never before its time and
// up to a quarter of a second after it, as the server fires schedules at most four
// times a second. It keeps payload and headers, but for headers that begin with
// "Nats-", which are instructions to the server: they are dropped, except for
// Nats-Msg-Id, which a handler may use as its key. These are added, percent-encoded
// where they hold anything but printable ASCII:
//
//	Flux-Origin      stream and sequence of the first copy, as in ORDERS:17
//	Flux-First-Seen  when that was published, RFC 3339 with nanoseconds
//	Flux-Deferrals   how often the message was deferred
//	Flux-Attempts    how often a handler failed with it
//	Flux-Order       where it stands among the messages of its tenant
//	Flux-Tenant      its tenant
//	Flux-Reason      why it was deferred last, such as quota_exceeded
//	Flux-Subject     the subject that it was first published to
//	Flux-Due         when it was to come back, RFC 3339 with nanoseconds
//	Flux-Msg-Id      its Nats-Msg-Id, if it had one
//
// They are believed only on messages that say that the server's scheduler made
// them from a copy of this source, and [Msg.Headers] shows none of them then. On
// any other message they change nothing.
//
// The server lets those who may publish to the stream say so of their own
// messages, with the headers Nats-Scheduler and Nats-Schedule-Next. A forged copy
// has the ID, age, counts and order that its publisher wants it to have, but
// never another subject than it was published to; and the server deletes the
// waiting copy that it names. Publishers that are not trusted so far must not
// reach the stream directly, or be kept out by one of two: with
// [Config.ReturnSubject] only messages under that subject are believed, so let
// none publish there; with [Config.NakDeferrals] none is.
//
// A copy is a message of the stream like any other, so other consumers that read
// the subject of the original would receive it once more. Run refuses to begin
// beside one. With [Config.ReturnSubject] copies come back under subjects that
// this consumer alone reads, whatever else reads the stream; [Msg.Subject] is the
// original one all the same.
//
// With [Config.NakDeferrals] a deferred message is handed back by a negative
// acknowledgement with a delay instead, on any server and stream. It then keeps
// its place in MaxAckPending, and its counts survive only in the memory of the
// process that deferred it: another one takes all earlier deliveries for
// deferrals, and gets the message up to a second early if the server was started
// again meanwhile.
//
// # Dead letters
//
// A dead letter is published to [Config.DeadLetterStream] with the payload and
// headers of the message, then the message is terminated at the consumer. It
// carries these headers:
//
//	Flux-Reason, Flux-Tenant, Flux-Attempts, Flux-Deferrals, Flux-Origin,
//	Flux-First-Seen, Flux-Subject, Flux-Msg-Id
//	                 as above
//	Flux-Error       what the handler returned
//	Flux-Stack       of the handler's panic
//	Flux-Stream, Flux-Consumer, Flux-Sequence
//	                 where the message was taken from
//	Flux-Time        when that copy was stored, RFC 3339 with nanoseconds
//
// [Redrive] publishes dead letters to the subjects that they came from, once
// whatever killed them is mended.
//
// # Messages that the server abandons
//
// A consumer with a MaxDeliver, which other clients may need, loses messages that
// were delivered so often, and says so in an advisory only. [Source.Watch] makes
// dead letters of them, with the reason "max_deliveries"; and, if that is wanted,
// of those that some other client terminated, with the reason "terminated".
//
// # What is promised
//
// Delivery is at least once. A message is handled a second time only if the
// process or the server fails between its processing and the arrival of its
// acknowledgement, or if the connection is lost for longer than AckWait and the
// message is given to another member. A message that comes again while this
// source still holds it is not delivered again, and neither is one that it settled
// within the last million sequences of the stream, in the same Run: that is
// acknowledged once more. Deferred copies and dead
// letters carry a message id made from the sequence of the message, so that one
// that is published twice, because the confirmation was lost, is stored once
// within the stream's duplicate window.
//
// What a server has confirmed may still be lost with the power: nats-server writes
// its files to disk every two minutes, unless its sync_interval says "always" (see
// jepsen.io/analyses/nats-2.12.1). A stream whose messages nobody could replace wants
// that, or replicas that do not fail together.
//
// While a replicated consumer has no leader the server gives no messages to
// anyone. A server that is shut down passes its leadership on at once; one that is
// killed is missed by the others after 4 to 9 seconds, which cannot be configured
// (minElectionTimeout and maxElectionTimeout in nats-server v2.15.2,
// server/raft.go). Messages flow again within 3 seconds of the election, so up to
// 12 seconds after the kill, and longer if the election has to be repeated.
//
// Messages of a stream that is deleted and made again while they are held are gone
// with it: they can still become dead letters, and no verdict on one of them goes
// to the new stream, where another message has its sequence. Nothing is settled
// while the connection is lost, nor for up to five seconds after that, until the
// stream has been looked at. What cannot be told apart is settled in the new stream:
// what is acknowledged within two seconds of the deletion while the gate is full, as
// it may be noticed no sooner, and what is left to be settled when Run ends while the
// connection is lost.
//
// JetStream tells nobody that a message has been given to another member of
// the consumer, so [stream.Delivery.Revoked] is nil. The server accepts an
// acknowledgement from a member that it gave up on as well as from the one that
// has the message now, and [Config.ConfirmAcks] does not tell them apart either.
//
// # Permissions
//
// A user of the server for whom it is listed what may be published needs these,
// here for stream S, consumer c and the defaults of [Config], and must be allowed to
// subscribe to its inboxes, "_INBOX.>":
//
//	$JS.API.STREAM.INFO.S, $JS.API.STREAM.INFO.DLQ_S, $JS.API.CONSUMER.INFO.S.c,
//	$JS.API.CONSUMER.LIST.S  to look at the setup
//	$JS.API.CONSUMER.MSG.NEXT.S.c, $JS.ACK.S.c.>  to take messages and settle them
//	flux.defer.S.c.*, dlq.S.c  for deferred copies and dead letters
//	$SYS.REQ.USER.INFO         so that Run can say at once what is missing
//
// # Core NATS
//
// Without JetStream delivery is at most once: the server forgets a message when
// it has sent it. What is published while a [Core] is not connected, or is lost
// with its process, nobody has any more. Its gate can have messages wait, drop
// them, or make dead letters of them, and never defers one: [stream.Gate.Run]
// refuses a policy that would. At an orderly end what was received and not
// processed becomes a dead letter with the reason "released".
//
// Messages that come faster than the gate takes them wait in the client, as many
// as [CoreConfig.Backlog] says. The client drops what comes beyond that, which
// [CoreStats] counts and the logger is told of.
//
// With [CoreConfig.AnswerRefused] a request that would become a dead letter is
// answered by a refusal, with the headers Nats-Service-Error-Code (429 if it was
// beyond a limit) and Nats-Service-Error, and if it may be sent again later with
// Retry-After in seconds and Retry-After-Ms in milliseconds: see [ReadRefusal].
// Handlers answer with [Msg.Respond].
//
// A dead letter of core NATS has the headers Flux-Reason, Flux-Tenant,
// Flux-Attempts, Flux-Deferrals, Flux-Error, Flux-Stack, Flux-Subject and
// Flux-Msg-Id as above, and Flux-Time, when it became one.
package fluxnats
