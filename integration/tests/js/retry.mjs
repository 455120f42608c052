// A fetch for a server whose leaders die: sends again what a client of the protocol may send again, and nothing else.
// 503 was certainly not done, unless it says that its outcome is unknown; then, and when the connection breaks, only
// reads and a producer's appends may be repeated.

const PATIENCE_MS = 20000
const plain = globalThis.fetch

function mayRepeat(method, headers) {
  return method === "GET" || method === "HEAD" || headers.has("producer-id")
}

async function retrying(input, init) {
  const began = Date.now()
  const first = new Request(input, init)
  const body = first.body ? await first.arrayBuffer() : undefined
  const isSafe = mayRepeat(first.method, first.headers)
  const again = {
    method: first.method,
    headers: first.headers,
    body,
    redirect: first.redirect,
    signal: init?.signal ?? (input instanceof Request ? input.signal : undefined),
  }
  for (;;) {
    let response
    try {
      response = await plain(first.url, again)
    } catch (error) {
      if (!isSafe || again.signal?.aborted || Date.now() - began > PATIENCE_MS) throw error
    }
    if (response) {
      const isUnknown = response.headers.get("stream-outcome") === "unknown"
      if (response.status !== 503 || (isUnknown && !isSafe)) return response
      if (Date.now() - began > PATIENCE_MS) return response
      await response.arrayBuffer()
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

globalThis.fetch = retrying
