/* Parses frames of a file, each as it is and with bytes overwritten, in buffers of its exact size.
 *
 * fuzz_vp8 FILE ROUNDS, where FILE holds (uint32 size, bytes) for each frame.
 */

#include <stdio.h>

#include "vp8_entropy.c"

static uint32_t seed = 1;

static uint32_t draw(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

int main(int argc, char **argv) {
    int32_t spare_bits[MAX_PARTITIONS], has_rest[MAX_PARTITIONS];
    int num_damaged = 0, num_noticed = 0;
    if (argc < 3) return 2;
    for (int round = 0; round < atoi(argv[2]); round++) {
        FILE *file = fopen(argv[1], "rb");
        Vp8 *vp8 = lafp_vp8_new(4096);
        uint32_t size;
        if (!file || !vp8) return 2;
        while (fread(&size, 4, 1, file) == 1) {
            uint32_t kept = round && !draw(8) ? draw(size + 1) : size;
            uint8_t *data = malloc(size), *exact = malloc(kept ? kept : 1);
            if (!data || !exact || fread(data, 1, size, file) != size) return 2;
            for (uint32_t i = round ? draw(8) : 0; i > 0; i--)
                data[draw(2) ? draw(size) : draw(size < 64 ? size : 64)] = (uint8_t)draw(256);
            memcpy(exact, data, kept);
            int count = lafp_vp8_parse(vp8, exact, kept, spare_bits, has_rest);
            int is_sound = count > 0;
            for (int i = 0; i < count; i++) is_sound &= !has_rest[i] && spare_bits[i] >= 8;
            num_damaged += round > 0, num_noticed += !is_sound;
            if (!round && !is_sound) return 3;
            free(data), free(exact);
        }
        fclose(file);
        lafp_vp8_free(vp8);
    }
    printf("%d %d\n", num_damaged, num_noticed);
    return 0;
}
