//! gRPC through the proxy, with tonic on both ends: unary, streams both ways, trailers, errors.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::stage::{Stage, denying, spec};

/// Messages as they are: what is tested is the way, not protobuf.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Sends back each message it gets; `fail` ends the stream with a status.
#[derive(Clone)]
struct Echo;

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;
    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answers = request.into_inner().map(|message| match message? {
            fail if &fail[..] == b"fail" => Err(Status::data_loss("as asked")),
            other => Ok(other),
        });
        Box::pin(std::future::ready(Ok(Response::new(Box::pin(answers) as Messages))))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).streaming(Echo, request).await) })
    }
}

async fn server() -> SocketAddr {
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(tonic::transport::Server::builder().add_service(Echo).serve_with_incoming(incoming));
    address
}

async fn client(stage: &Stage) -> tonic::client::Grpc<tonic::transport::Channel> {
    let to = tonic::transport::Endpoint::from_shared(format!("http://{}", stage.address)).unwrap();
    let origin = http::Uri::from_static("http://example.com");
    let mut client = tonic::client::Grpc::new(to.origin(origin).connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn path() -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static("/test.Echo/Chat")
}

#[tokio::test]
async fn messages_of_a_stream_come_back_one_by_one_while_it_is_open() {
    let address = server().await;
    let stage = Stage::serving(&[address]);
    let mut client = client(&stage).await;
    let (send, messages) = mpsc::unbounded_channel();
    send.send(Bytes::from_static(b"0")).unwrap();
    let request = Request::new(UnboundedReceiverStream::new(messages));
    let mut answers = client.streaming(request, path(), Raw).await.unwrap().into_inner();
    for turn in 0..50u32 {
        assert_eq!(answers.message().await.unwrap().unwrap(), turn.to_string());
        send.send(Bytes::from((turn + 1).to_string())).unwrap();
    }
    assert_eq!(answers.message().await.unwrap().unwrap(), "50");
    drop(send);
    assert_eq!(answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_large_message_passes_and_many_calls_share_one_connection() {
    let address = server().await;
    let stage = Stage::serving(&[address]);
    let mut client = client(&stage).await;
    let large = Bytes::from(vec![b'x'; 3 << 20]);
    let back = client.client_streaming(Request::new(tokio_stream::once(large.clone())), path(), Raw).await.unwrap();
    assert!(back.into_inner() == large);
    for _ in 0..100 {
        client.ready().await.unwrap();
        let one = Request::new(tokio_stream::once(Bytes::from_static(b"hi")));
        let back: Response<Bytes> = client.client_streaming(one, path(), Raw).await.unwrap();
        assert_eq!(back.into_inner(), "hi");
    }
    let backend = stage.proxy.metrics().backends.remove(0);
    assert_eq!((backend.requests, backend.connects), (101, 1));
}

#[tokio::test]
async fn a_status_in_trailers_reaches_the_client_after_the_messages_before_it() {
    let address = server().await;
    let stage = Stage::serving(&[address]);
    let mut client = client(&stage).await;
    let messages = tokio_stream::iter([Bytes::from_static(b"one"), Bytes::from_static(b"fail")]);
    let mut answers = client.streaming(Request::new(messages), path(), Raw).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), "one");
    let status: Status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "as asked"));
}

#[tokio::test]
async fn nobody_ready_is_unavailable_in_the_words_of_grpc() {
    let stage = Stage::start();
    stage.route(spec(), &[]);
    let mut client = client(&stage).await;
    let one = Request::new(tokio_stream::once(Bytes::from_static(b"hi")));
    let status = client.client_streaming::<_, _, Bytes, _>(one, path(), Raw).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "No instance is ready to answer."));
}

#[tokio::test]
async fn a_stream_ends_with_the_policy_that_comes_to_deny_it_and_the_next_call_is_not_permitted() {
    let address = server().await;
    let stage = Stage::serving(&[address]);
    let mut client = client(&stage).await;
    let (send, messages) = mpsc::unbounded_channel();
    send.send(Bytes::from_static(b"one")).unwrap();
    let request = Request::new(UnboundedReceiverStream::new(messages));
    let mut answers = client.streaming(request, path(), Raw).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap(), "one");
    stage.proxy.set_callers(denying(&["web"]));
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), answers.message()).await;
    end.expect("it was never ended").expect_err("it ended well");
    client.ready().await.unwrap();
    let one = Request::new(tokio_stream::once(Bytes::from_static(b"hi")));
    let status = client.client_streaming::<_, _, Bytes, _>(one, path(), Raw).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("policy"), "{status}");
}
