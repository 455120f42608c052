import { runConformanceTests } from "@durable-streams/server-conformance-tests"
if (process.env.CONFORMANCE_UNKNOWN) await import("./retry.mjs")
runConformanceTests({ baseUrl: process.env.CONFORMANCE_URL })
