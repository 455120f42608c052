// A fetch for a server whose leaders die: sends again what a client of the protocol may send again, and nothing else.
// 503 was certainly not done, unless it says that its outcome is unknown; then, and when the connection breaks, only
// reads and a producer's appends may be repeated.
// What may not be repeated is noted in the file CONFORMANCE_UNKNOWN.

import { appendFileSync } from "node:fs"

const PATIENCE_MS = 20000
const plain = globalThis.fetch

function mayRepeat(method, headers) {
  return method === "GET" || method === "HEAD" || headers.has("producer-id")
}

function note(request, what) {
  appendFileSync(process.env.CONFORMANCE_UNKNOWN, `${request.method} ${request.url}: ${what}\n`)
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
      if (again.signal?.aborted) throw error
      if (!isSafe) note(first, error)
      if (!isSafe || Date.now() - began > PATIENCE_MS) throw error
    }
    if (response) {
      const isUnknown = response.headers.get("stream-outcome") === "unknown"
      if (response.status !== 503) return response
      if (isUnknown && !isSafe) {
        note(first, "unknown")
        return response
      }
      if (Date.now() - began > PATIENCE_MS) return response
      await response.arrayBuffer()
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

globalThis.fetch = retrying
