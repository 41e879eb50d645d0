/* SPDX-License-Identifier: MulanPSL-2.0 */
/*
 * The only file that includes headers of ldns.
 *
 * What may be used of it: constructors and accessors of names, records, packets
 * and EDNS options, ldns_pkt2buffer_wire(), ldns_wire2rdf() and
 * ldns_rdf_address_reverse(). Not: whatever sends, resolves, reads files or
 * blocks; whatever turns untrusted data into text (ldns 1.8.3 crashes on some
 * EDNS options, and asks getservbyport(3) for WKS); ldns_wire2pkt(), which
 * takes memory without bound and leaks on some packets; ldns_wire2rr(), which
 * does not look whether it got memory; ldns_pkt_query_new(),
 * which draws an id that nobody uses.
 */
#include "ldns.h"
#include "name.h"

#include <errno.h>
#include <ldns/buffer.h>
#include <ldns/dname.h>
#include <ldns/edns.h>
#include <ldns/rbtree.h>
#include <ldns/host2wire.h>
#include <ldns/packet.h>
#include <ldns/rdata.h>
#include <ldns/rr.h>
#include <ldns/util.h>
#include <ldns/wire2host.h>
#include <netinet/in.h>
#include <string.h>

const char *kl_dns_get_ldns_version(void)
{
	return ldns_version();
}

static bool add_question(ldns_pkt *packet, const struct kl_ldns_query *query)
{
	ldns_rdf *name = ldns_dname_new_frm_data((uint16_t)query->name_bytes, query->name);
	ldns_rr *question = ldns_rr_new();

	if (name && question) {
		ldns_rr_set_owner(question, name);
		ldns_rr_set_type(question, (ldns_rr_type)query->type);
		ldns_rr_set_class(question, LDNS_RR_CLASS_IN);
		ldns_rr_set_question(question, true);
		if (ldns_pkt_push_rr(packet, LDNS_SECTION_QUESTION, question))
			return true;
		ldns_rr_free(question);
		return false;
	}
	if (name)
		ldns_rdf_deep_free(name);
	if (question)
		ldns_rr_free(question);
	return false;
}

static bool add_cookie(ldns_pkt *packet, const struct kl_ldns_query *query)
{
	ldns_edns_option_list *options = ldns_edns_option_list_new();
	ldns_edns_option *option = ldns_edns_new_from_data(LDNS_EDNS_COOKIE, query->cookie_bytes,
							   query->cookie);

	if (options && option && ldns_edns_option_list_push(options, option)) {
		ldns_pkt_set_edns_option_list(packet, options);
		return true;
	}
	if (option)
		ldns_edns_deep_free(option);
	if (options)
		ldns_edns_option_list_deep_free(options);
	return false;
}

static bool fill(ldns_pkt *packet, const struct kl_ldns_query *query)
{
	ldns_pkt_set_id(packet, query->id);
	ldns_pkt_set_opcode(packet, LDNS_PACKET_QUERY);
	ldns_pkt_set_rd(packet, query->recursion);
	ldns_pkt_set_cd(packet, query->checking_disabled);
	ldns_pkt_set_ad(packet, query->authentic);
	if (!add_question(packet, query))
		return false;
	if (query->edns_bytes == 0)
		return true;
	ldns_pkt_set_edns_udp_size(packet, query->edns_bytes);
	ldns_pkt_set_edns_do(packet, query->dnssec);
	return query->cookie_bytes == 0 || add_cookie(packet, query);
}

int kl_ldns_encode(const struct kl_ldns_query *query, uint8_t ret_wire[KL_QUERY_BYTES])
{
	ldns_buffer *buffer;
	ldns_pkt *packet;
	int ret = -ENOMEM;

	if (query->name_bytes > KL_NAME_BYTES || query->cookie_bytes > 40)
		return -EINVAL;
	buffer = ldns_buffer_new(KL_QUERY_BYTES);
	packet = ldns_pkt_new();
	if (packet && buffer && fill(packet, query) &&
	    ldns_pkt2buffer_wire(buffer, packet) == LDNS_STATUS_OK &&
	    ldns_buffer_position(buffer) <= KL_QUERY_BYTES) {
		ret = (int)ldns_buffer_position(buffer);
		memcpy(ret_wire, ldns_buffer_begin(buffer), (size_t)ret);
	}
	if (packet)
		ldns_pkt_free(packet);
	if (buffer)
		ldns_buffer_free(buffer);
	return ret;
}

int kl_ldns_decode(const uint8_t *wire, size_t bytes, unsigned type, size_t data_at,
		   uint8_t *ret_data, size_t room)
{
	ldns_rr *record = ldns_rr_new();
	size_t used = 0, at = data_at - 2; /* RDLENGTH belongs to it */
	int ret = 0;

	if (!record)
		return -ENOMEM;
	ldns_rr_set_type(record, (ldns_rr_type)type);
	if (ldns_wire2rdf(record, wire, bytes, &at) != LDNS_STATUS_OK)
		ret = -EBADMSG;
	for (size_t i = 0; i < ldns_rr_rd_count(record) && ret == 0; i++) {
		const ldns_rdf *field = ldns_rr_rdf(record, i);

		if (!field || ldns_rdf_size(field) > room - used) {
			ret = field ? -ENOSPC : -EBADMSG;
			continue;
		}
		memcpy(ret_data + used, ldns_rdf_data(field), ldns_rdf_size(field));
		used += ldns_rdf_size(field);
	}
	ldns_rr_free(record);
	return ret < 0 ? ret : (int)used;
}

int kl_ldns_reverse(int family, const void *address, uint8_t *ret_name)
{
	ldns_rdf *data, *name;
	int ret = -ENOMEM;

	if (family != AF_INET && family != AF_INET6)
		return -EAFNOSUPPORT;
	data = ldns_rdf_new_frm_data(family == AF_INET ? LDNS_RDF_TYPE_A : LDNS_RDF_TYPE_AAAA,
				     family == AF_INET ? 4 : 16, address);
	name = data ? ldns_rdf_address_reverse(data) : NULL;
	if (name && ldns_rdf_size(name) <= KL_NAME_BYTES) {
		ret = (int)ldns_rdf_size(name);
		memcpy(ret_name, ldns_rdf_data(name), (size_t)ret);
	}
	if (name)
		ldns_rdf_deep_free(name);
	if (data)
		ldns_rdf_deep_free(data);
	return ret;
}
