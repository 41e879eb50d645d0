/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * libkloop: an event loop on io_uring, with streams, TLS and DNS.
 *
 * This header includes all the others. See kloop(7) for the concepts.
 */
#ifndef KLOOP_H
#define KLOOP_H

#include <kloop/base.h>
#include <kloop/version.h>
#include <kloop/loop.h>
#include <kloop/op.h>
#include <kloop/timer.h>
#include <kloop/signal.h>
#include <kloop/child.h>
#include <kloop/pool.h>
#include <kloop/address.h>
#include <kloop/file.h>
#include <kloop/stream.h>
#include <kloop/listener.h>
#include <kloop/datagram.h>
#include <kloop/tls.h>
#include <kloop/dns.h>
#include <kloop/info.h>

#endif
