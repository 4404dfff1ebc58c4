/* Parses packets of files, each as it is and with bytes overwritten, in buffers of its exact size.
 *
 * fuzz_hevc FILE ROUNDS, where FILE holds (uint32 size, bytes) for each packet. Those that begin with
 * a one or are empty are parameter sets, and begin another file.
 */

#include <stdio.h>

#include "hevc_entropy.c"

static uint32_t seed = 1;

static uint32_t draw(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

static void damage(uint8_t *data, uint32_t size) {
    for (uint32_t i = 1 + draw(7); i > 0; i--)
        data[draw(2) ? draw(size) : draw(size < 128 ? size : 128)] = (uint8_t)draw(256);
}

int main(int argc, char **argv) {
    int num_damaged = 0, num_noticed = 0;
    if (argc < 3) return 2;
    for (int round = 0; round < atoi(argv[2]); round++) {
        FILE *file = fopen(argv[1], "rb");
        Hevc *hevc = lafp_hevc_new(1 << 22);
        uint32_t size;
        if (!file || !hevc) return 2;
        while (fread(&size, 4, 1, file) == 1) {
            uint32_t kept = round && !draw(8) ? draw(size + 1) : size;
            uint8_t *data = malloc(size + 1), *exact = malloc(kept ? kept : 1);
            if (!data || !exact || fread(data, 1, size, file) != size) return 2;
            int are_sets = !size || data[0] == 1;
            /* Most files keep their parameter sets, or little more than these would be read. */
            int is_damaged = round && size && !draw(are_sets ? 8 : 2);
            if (is_damaged) damage(data, size);
            memcpy(exact, data, kept);
            int sign = are_sets ? lafp_hevc_read_sets(hevc, exact, kept) : lafp_hevc_parse(hevc, exact, kept);
            num_damaged += is_damaged, num_noticed += is_damaged && sign != SOUND;
            if (!round && sign) return 3;
            free(data), free(exact);
        }
        fclose(file);
        lafp_hevc_free(hevc);
    }
    printf("%d %d\n", num_damaged, num_noticed);
    return 0;
}
