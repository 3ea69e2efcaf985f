// Drives a real daemon from Node: client.js ADDRESS PROTO_DIR STATUS_PROTO,
// the address such as unix:///run/piped/piped.sock. Says what it does and ends
// with 1 at the first thing that is not as the contract has it. docs/api.md
// explains each step.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const [address, protoDir, statusProto] = process.argv.slice(2);
const files = ['delivery', 'framing', 'pipe', 'server', 'session'].map((name) => `piped/v1/${name}.proto`);
// Numbers are exact to 2^53 this way, which no position reaches in practice.
const options = { includeDirs: [protoDir], longs: Number, enums: String, defaults: true, oneofs: true };
const { v1 } = grpc.loadPackageDefinition(protoLoader.loadSync(files, options)).piped;
const google = protobuf.loadSync(statusProto);

// No step takes this long; one that does fails instead of hanging.
const deadline = () => ({ deadline: Date.now() + 60_000 });

function check(what, got, want) {
  assert.deepStrictEqual(got, want, `${what}: got ${show(got)}, want ${show(want)}`);
  console.log(`${what}: ${show(got)}`);
}

function show(value) {
  return JSON.stringify(value);
}

// unary calls a method with one request and resolves to its one response.
function unary(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// errorInfo is the google.rpc.ErrorInfo of a failed call, if it is of piped.
function errorInfo(error) {
  const [trailer] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!trailer) return {};
  const ErrorInfo = google.lookupType('google.rpc.ErrorInfo');
  const { details } = google.lookupType('google.rpc.Status').decode(trailer);
  const any = details.find((detail) => detail.type_url.endsWith('/google.rpc.ErrorInfo'));
  const info = any ? ErrorInfo.toObject(ErrorInfo.decode(any.value)) : {};
  return info.domain === 'piped' ? info : {};
}

async function checkRefused(what, code, reason, call) {
  try {
    await call();
  } catch (error) {
    const info = errorInfo(error);
    check(what, [grpc.status[error.code], info.reason], [code, reason]);
    return info.metadata ?? {};
  }
  return assert.fail(`${what}: succeeded, want ${code}/${reason}`);
}

// after is the position behind a batch: what acknowledges it.
function after(batch) {
  const { incarnation, message, offset } = batch.first;
  if (batch.more) return { incarnation, message, offset: offset + batch.data.length };
  return { incarnation, message: message + (batch.sizes.length || 1), offset: 0 };
}

// payloads are the messages of a batch, one by one, as text.
function payloads(batch) {
  let start = 0;
  return (batch.sizes.length ? batch.sizes : [batch.data.length]).map((size) => {
    start += size;
    return batch.data.toString('utf8', start - size, start);
  });
}

async function write(stream, request) {
  if (!stream.write(request)) await once(stream, 'drain');
}

async function collect(stream) {
  const responses = [];
  for await (const response of stream) responses.push(response);
  return responses;
}

function closeEndpoint(pipes, request) {
  return collect(pipes.Close(request, deadline())).then((all) => all.map((response) => response.response));
}

// `Close` is an RPC, and grpc-js gives each RPC a name in camel case as well:
// `close` is the RPC then, not what closes the channel, and grpc.closeClient,
// which calls it without arguments, fails. These two ways are left.
async function closeTrap() {
  const ways = {
    'grpc.Client.prototype.close.call(client)': (client) => grpc.Client.prototype.close.call(client),
    'client.getChannel().close()': (client) => client.getChannel().close(),
  };
  for (const [way, close] of Object.entries(ways)) {
    const client = new v1.PipeService(address, grpc.credentials.createInsecure());
    check('client.close is the RPC', client.close === client.Close, true);
    check('and not what closes the channel', client.close === grpc.Client.prototype.close, false);
    const poll = () => unary(client, 'Poll', { endpoints: [{ session: 'none' }], timeout: {} });
    await checkRefused('poll before the channel is closed', 'NOT_FOUND', 'SESSION_NOT_FOUND', poll);
    close(client);
    check(`the channel after ${way}`, client.getChannel().getConnectivityState(false), grpc.connectivityState.SHUTDOWN);
    await assert.rejects(poll, /shut down/, 'a closed channel refuses calls');
  }
}

async function barePipe(sessions, pipes) {
  const spec = { name: 'node-pipe', pipes: [{ framingIn: { name: 'mp' } }] };
  const { session } = await unary(sessions, 'CreateSession', spec);
  check('pipes of a bare pipe', session.pipes.map((pipe) => pipe.name), ['pipe']);
  const one = { session: session.name, end: 1 };
  const two = { session: session.name, pipe: 'pipe', end: 2 };
  const poll = async () => {
    const { ready } = await unary(pipes, 'Poll', { endpoints: [one, two], timeout: {} });
    return ready.map(({ index, data, end }) => [index, data, end]);
  };
  const send = (messages, more) =>
    unary(pipes, 'Write', { endpoint: one, messages: messages.map((text) => Buffer.from(text)), ...more });
  const read = (more) => unary(pipes, 'Read', { endpoint: two, ...more });

  check('poll before anything is sent', await poll(), []);
  await send(['first', '', 'third']);
  check('poll after three messages', await poll(), [[1, true, false]]);

  const got = await read();
  check('read', [got.batch.first.message, payloads(got.batch)], [1, ['first']]);
  const again = await read();
  check('read again without an acknowledgement', [again.batch.first.message, payloads(again.batch)], [1, ['first']]);
  const rest = await read({ acknowledge: got.next, autoAck: true });
  check('read on after an acknowledgement', [rest.batch.first.message, payloads(rest.batch)], [2, ['']]);
  check('read the third', payloads((await read({ autoAck: true })).batch), ['third']);
  check('read with nothing there', (await read({ timeout: {} })).batch, null);

  const named = { writerId: 'w', sequence: 1 };
  check('write by name', (await send(['once'], named)).expected.message, 2);
  check('the same again', (await send(['once'], named)).expected.message, 2);
  const gap = () => send(['far'], { writerId: 'w', sequence: 5 });
  const refused = await checkRefused('a message left out', 'FAILED_PRECONDITION', 'SEQUENCE_GAP', gap);
  check('expected instead', refused.expected_message, '2');
  check('written once', payloads((await read({ autoAck: true })).batch), ['once']);

  const taken = () => unary(sessions, 'CreateSession', { name: session.name, pipes: [{}] });
  await checkRefused('a name that is taken', 'ALREADY_EXISTS', 'SESSION_EXISTS', taken);
  const early = () => unary(sessions, 'DeleteSession', { session: session.name });
  await checkRefused('deleting what is in use', 'FAILED_PRECONDITION', 'SESSION_ACTIVE', early);
  return { one, two };
}

// 16 MiB go through a log of 4 MiB, so in parts and with both streams at work.
async function largeMessage(pipes, one, two, partSize) {
  const message = Buffer.alloc(16 << 20, Buffer.from(Array.from({ length: 256 }, (_, i) => i)));
  const sending = pipes.Send(deadline());
  const acks = collect(sending);
  const sent = sendParts(sending, one, message, partSize);

  const receiving = pipes.Recv(deadline());
  receiving.write({ open: { endpoint: two, consumerId: 'large' } });
  const received = [];
  let size = 0;
  await checkRefused('a consumer that leaves before the end', 'ABORTED', 'DETACHED', async () => {
    for await (const { response, batch } of receiving) {
      if (response !== 'batch') continue;
      assert.equal(batch.first.offset, size, 'parts come in order');
      assert.equal(batch.totalSize, message.length, 'each part says the size of the whole');
      assert.ok(batch.data.length <= partSize, 'no part is larger than promised');
      received.push(batch.data);
      size += batch.data.length;
      receiving.write({ ack: { position: after(batch) } });
      // The acknowledgement was sent before the requests end, so it counts.
      if (!batch.more) receiving.end();
    }
  });
  await sent;
  check('16 MiB arrived as they were sent', Buffer.concat(received).equals(message), true);
  const positions = (await acks).filter(({ response }) => response === 'ack').map(({ ack }) => ack.position);
  const { message: number, offset } = positions.at(-1);
  check('last acknowledgement of Send', [number, offset], [2, 0]);
}

async function sendParts(sending, endpoint, message, partSize) {
  await write(sending, { open: { endpoint, writerId: 'large' } });
  for (let offset = 0; offset < message.length; offset += partSize) {
    const data = message.subarray(offset, offset + partSize);
    const more = offset + data.length < message.length;
    await write(sending, { batch: { first: { message: 1, offset }, data, more, totalSize: message.length } });
  }
  sending.end();
}

async function endOfPipe(sessions, pipes, one, two) {
  const send = (text) => unary(pipes, 'Write', { endpoint: one, messages: [Buffer.from(text)] });
  const read = () => unary(pipes, 'Read', { endpoint: two, autoAck: true });
  await send('last words');
  check('close and wait', (await closeEndpoint(pipes, { endpoint: one, wait: true })).at(-1), 'closed');
  check('close again', await closeEndpoint(pipes, { endpoint: one }), []);
  await checkRefused('write after close', 'FAILED_PRECONDITION', 'ENDPOINT_CLOSED', () => send('late'));

  check('what was sent before close', payloads((await read()).batch), ['last words']);
  const { ready } = await unary(pipes, 'Poll', { endpoints: [two], timeout: {} });
  check('poll at the end', ready.map(({ end }) => end), [true]);
  const refused = await checkRefused('read at the end', 'OUT_OF_RANGE', 'EOF', read);
  // Three, one, the large one, the last one: the end stands after all of them.
  check('the end tells its position', refused.message, '7');
  await closeEndpoint(pipes, { endpoint: two });
  await deleteSession(sessions, one.session);
}

async function deleteSession(sessions, session) {
  await unary(sessions, 'DeleteSession', { session, force: true });
  const get = () => unary(sessions, 'GetSession', { session });
  await checkRefused('a session that is gone', 'NOT_FOUND', 'SESSION_NOT_FOUND', get);
}

async function program(sessions, pipes) {
  const { session } = await unary(sessions, 'CreateSession', { name: 'node-cat', process: { args: ['cat'] } });
  check('pipes of a process', session.pipes.map((pipe) => pipe.name), ['stdio', 'stderr']);
  const stdio = { session: session.name };

  const sending = pipes.Send(deadline());
  sending.write({ open: { endpoint: stdio, writerId: 'w' } });
  sending.write({ batch: { first: { message: 1 }, data: Buffer.from('onetwothree'), sizes: [3, 3, 5] } });
  sending.end();
  const responses = await collect(sending);
  check('send is opened at', responses[0].opened.expected.message, 1);
  check('send is acknowledged up to', responses.at(-1).ack.position.message, 4);
  const half = await closeEndpoint(pipes, { endpoint: stdio, sendOnly: true, wait: true });
  check('half-close', half.at(-1), 'closed');

  const receiving = pipes.Recv(deadline());
  receiving.write({ open: { endpoint: stdio, consumerId: 'c', maxUnackedMessages: 2, maxBatchMessages: 2 } });
  const status = once(receiving, 'status');
  const lines = [];
  let end;
  // Once everything is acknowledged the stream ends by itself, with OK.
  for await (const response of receiving) {
    if (response.opened) check('framing', response.opened.framing, 'line');
    if (response.end) end = response.end;
    if (response.batch) {
      lines.push(...payloads(response.batch));
      receiving.write({ ack: { position: after(response.batch) } });
    }
  }
  check('lines that came back', lines, ['one', 'two', 'three']);
  check('cause of the end', end.cause, 'END_CAUSE_CLOSED');
  check('position and bytes of the end', [end.position.message, end.bytes], [4, 'one\ntwo\nthree\n'.length]);
  check('status of the stream', (await status)[0].code, grpc.status.OK);

  const waited = await unary(sessions, 'WaitProcess', { session: session.name });
  check('exit', [waited.process.exit.status, waited.process.exit.code], ['code', 0]);
  await deleteSession(sessions, session.name);
}

async function main() {
  await closeTrap();
  const credentials = grpc.credentials.createInsecure();
  const server = new v1.ServerService(address, credentials);
  const sessions = new v1.SessionService(address, credentials);
  const pipes = new v1.PipeService(address, credentials);

  const { limits } = await unary(server, 'GetServerInfo', {});
  check('part size is advertised', limits.partSize > 0, true);
  const { one, two } = await barePipe(sessions, pipes);
  await largeMessage(pipes, one, two, limits.partSize);
  await endOfPipe(sessions, pipes, one, two);
  await program(sessions, pipes);
  for (const client of [server, sessions, pipes]) client.getChannel().close();
}

main().catch((error) => {
  console.error(`MISMATCH ${error.stack ?? error}`);
  process.exitCode = 1;
});
